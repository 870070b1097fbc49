'use strict';

// Swagger UI on the contract of this server. Nothing is stored: a key is gone
// when the page is.
SwaggerUIBundle({
  url: '/openapi.json',
  dom_id: '#docs',
  deepLinking: true,
  persistAuthorization: false,
  defaultModelsExpandDepth: 0,
  validatorUrl: null, // asks a server of its makers otherwise
});

package postgres

// Rights is for the test that no table is forgotten.
var Rights = rights

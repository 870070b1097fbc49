package postgres

// Rights is for the test that no table is forgotten.
var Rights = rights

// MissingRights reports a table that rights does not have.
var MissingRights = missingRights

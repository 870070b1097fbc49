package postgres

import (
	"errors"
	"slices"

	"github.com/jackc/pgx/v5/pgconn"

	"helloapi/internal/database"
)

// The SQLSTATE codes that get a treatment of their own:
// https://www.postgresql.org/docs/current/errcodes-appendix.html
const (
	foreignKeyViolation  = "23503"
	uniqueViolation      = "23505"
	readOnlyTransaction  = "25006"
	invalidPassword      = "28P01"
	invalidAuth          = "28000"
	noSuchDatabase       = "3D000"
	completionUnknown    = "40003"
	noPrivilege          = "42501"
	undefinedTable       = "42P01"
	undefinedObject      = "42704"
	tooManyConnections   = "53300"
	lockNotAvailable     = "55P03"
	adminShutdown        = "57P01"
	crashShutdown        = "57P02"
	cannotConnectNow     = "57P03"
	protocolViolation    = "08P01"
	classDataException   = "22"
	classConstraint      = "23"
	classTransactionRoll = "40"
)

// judge is the one place that decides what becomes of a statement that failed.
func judge(err error) database.Verdict {
	var e *pgconn.PgError
	if !errors.As(err, &e) || len(e.Code) != 5 {
		return database.Unproven
	}
	switch e.Code {
	case readOnlyTransaction, adminShutdown, crashShutdown, cannotConnectNow:
		return database.Moved
	case lockNotAvailable:
		return database.Held
	case completionUnknown:
		return database.Unproven
	}
	switch e.Code[:2] {
	case classDataException, classConstraint:
		return database.Rejected
	case classTransactionRoll:
		return database.Conflict
	}
	return database.Unproven
}

// Forbidden reports whether err is that the role lacks a right.
func Forbidden(err error) bool { return isCode(err, noPrivilege) }

func isCode(err error, codes ...string) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) && slices.Contains(codes, e.Code)
}

package postgres

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
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

// A verdict is what an error proves about the statement it answers.
type verdict int

const (
	// unproven: the statement may have been carried out, so it is not repeated.
	unproven verdict = iota
	// rejected: nothing was stored, because of the data of a row.
	rejected
	// conflict: nothing was stored, because of another transaction. Repeating it helps.
	conflict
	// locked: nothing was stored, because somebody else holds a row or the table.
	locked
	// moved: this server takes no writes or is stopping. Another one may be at
	// the same address.
	moved
)

// judge is the one place that decides what becomes of a statement that failed.
func judge(err error) verdict {
	var e *pgconn.PgError
	if !errors.As(err, &e) || len(e.Code) != 5 {
		return unproven
	}
	switch e.Code {
	case readOnlyTransaction, adminShutdown, crashShutdown, cannotConnectNow:
		return moved
	case lockNotAvailable:
		return locked
	case completionUnknown:
		return unproven
	}
	switch e.Code[:2] {
	case classDataException, classConstraint:
		return rejected
	case classTransactionRoll:
		return conflict
	}
	return unproven
}

func isCode(err error, codes ...string) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) && slices.Contains(codes, e.Code)
}

// retry runs write, a transaction, and repeats it a few times after a
// conflict, which proves that it was rolled back.
func retry(ctx context.Context, write func() error) error {
	for pause := time.Millisecond; ; pause *= 2 {
		err := write()
		if judge(err) != conflict || pause > 100*time.Millisecond {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause + rand.N(pause)):
		}
	}
}

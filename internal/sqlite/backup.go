package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// Backup copies the file at path, of whatever schema, to a new file that only
// its owner can read, and returns what path leads to. Another process may serve
// the file meanwhile: the copy is of one moment.
func Backup(ctx context.Context, path, to string) (file string, err error) {
	file, err = find(path)
	if err != nil {
		return "", err
	}
	db, err := open(ctx, file)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	// SQLite takes an empty file for none, and so no other process sees what
	// the backup holds.
	f, err := os.OpenFile(to, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("%s exists already: name another file for the backup", to)
	} else if err != nil {
		return "", fmt.Errorf("make backup: %w", err)
	}
	if _, err = db.write.ExecContext(ctx, `VACUUM INTO ?`, to); err != nil {
		err = db.explain(err)
	}
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return "", errors.Join(fmt.Errorf("back up to %s: %w", to, err), os.Remove(to))
	}
	return file, nil
}

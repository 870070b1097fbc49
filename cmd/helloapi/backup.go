package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"helloapi/internal/backend"
)

type backupCmd struct {
	database
	output
	File string `arg:"" help:"The new file. It holds all that the database has, and FILE.key the key of its certificates."`
}

// A backupInfo is a backup as it is shown.
type backupInfo struct {
	Database string `json:"database"` // the file that it is of
	File     string `json:"file"`
	KeyFile  string `json:"keyFile,omitempty"` // the key of its certificates, if there is one
}

func (c *backupCmd) Run(p *program) error {
	from, err := backend.Backup(p.ctx, c.URL, c.File)
	if err != nil {
		return err
	}
	withKey, err := copyNew(from+".key", c.File+".key")
	if err != nil {
		return errors.Join(err, os.Remove(c.File)) // a backup is whole or none
	}
	made, what := backupInfo{Database: from, File: c.File}, c.File
	if withKey {
		made.KeyFile = c.File + ".key"
		what += " and " + made.KeyFile + " (the key of its certificates; keep it secret)"
	}
	return c.printDone(p, fmt.Sprintf("Backed up %s to %s.", from, what), made)
}

// copyNew copies a file, if it exists, to a new one that only its owner can
// read.
func copyNew(from, to string) (copied bool, err error) {
	data, err := os.ReadFile(from)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("back up: %w", err)
	}
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return false, fmt.Errorf("%s exists already: name another file for the backup", to)
	} else if err != nil {
		return false, fmt.Errorf("back up: %w", err)
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return false, errors.Join(fmt.Errorf("back up: %w", err), os.Remove(to))
	}
	return true, nil
}

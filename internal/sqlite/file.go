package sqlite

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// ErrInUse says that another process serves the file.
var ErrInUse = errors.New("another helloapi serves this file; stop it first")

// find returns the file at path by its own name, with symbolic links resolved:
// SQLite and helloapi keep other files beside it, which every process must
// find under the same name.
func find(path string) (string, error) {
	file, err := filepath.EvalSymlinks(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("there is no database at %s: start `helloapi serve` or run `helloapi migrate` to make it, or set DATABASE_URL", path)
	} else if err != nil {
		return "", fmt.Errorf("open database: %w", err)
	}
	info, err := os.Stat(file)
	if err != nil {
		return "", fmt.Errorf("open database: %w", err)
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("open database: %s is not a file", file)
	}
	// Each name of a hard link would have a write-ahead log of its own.
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && stat.Nlink > 1 {
		return "", fmt.Errorf("%s has %d names (hard links), and a change made under one is lost under the others: remove all but one; `find DIRECTORY -samefile %[1]s` lists them", file, stat.Nlink)
	}
	return file, nil
}

// create is find, and first makes the file, readable by its owner only, if
// there is none. SQLite takes an empty file for an empty database.
func create(path string) (string, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", unwritable("make database directory", err)
	}
	// A file that exists is not opened: closing it would release the locks
	// that SQLite holds on it in this process.
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return "", unwritable("make database", err)
		}
		if err := f.Close(); err != nil {
			return "", fmt.Errorf("make database: %w", err)
		}
	}
	return find(path)
}

// unwritable says what to do where this process may not write.
func unwritable(what string, err error) error {
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) {
		return fmt.Errorf("%s: %w: let user %d (group %d) write there, or set DATABASE_URL=sqlite:PATH to a file in a folder where it may", what, err, os.Geteuid(), os.Getegid())
	}
	return fmt.Errorf("%s: %w", what, err)
}

// lockFile takes the lock of the one process that serves the file, which ends
// with the process or when what is returned is closed. Close it after SQLite:
// that releases SQLite's own locks too.
func lockFile(file string) (*os.File, error) {
	f, err := openLock(file)
	if err != nil {
		return nil, unwritable("open database", err)
	}
	if err := lock(f); err != nil {
		if errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EACCES) {
			err = ErrInUse
		}
		return nil, errors.Join(fmt.Errorf("lock database %s: %w", file, err), f.Close())
	}
	return f, nil
}

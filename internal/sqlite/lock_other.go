//go:build !linux

package sqlite

import (
	"os"
	"syscall"
)

// openLock opens what is locked: a file beside the database. Here a lock of the
// database itself would keep out SQLite too, or end when SQLite closes a file.
func openLock(file string) (*os.File, error) {
	return os.OpenFile(file+".lock", os.O_RDWR|os.O_CREATE, 0o600)
}

func lock(f *os.File) error { return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) }

package sqlite

import (
	"math"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// openLock opens what is locked: the database itself, whatever its name is.
func openLock(file string) (*os.File, error) { return os.OpenFile(file, os.O_RDWR, 0) }

// lock locks the last byte that a file may have, which SQLite leaves alone
// (https://www.sqlite.org/src/file/src/os.h: PENDING_BYTE). The lock belongs to
// the open file, so SQLite can't release it by closing one of its own.
func lock(f *os.File) error {
	return unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: syscall.F_WRLCK, Start: math.MaxInt64 - 1, Len: 1})
}

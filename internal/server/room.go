package server

import (
	"cmp"
	"fmt"
	"math"
	"os"
	"path"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
)

const (
	// connectionMemory is what a connection may hold, with TLS, HTTP/2, a
	// request whose body is read and one whose answer waits. Half of the memory
	// is for connections.
	connectionMemory = 128 << 10
	// ownDescriptors are kept for the stores, files and the internal listener.
	ownDescriptors = 256
	// maxConnections is the default where no limit is known.
	maxConnections = 1 << 16
)

// A Room is what the process has for connections.
type Room struct {
	Memory      int64 // the limit of GOMEMLIMIT or the cgroup, else the machine's memory; 0 if unknown
	Descriptors int64 // the limit of open files
}

// LimitMemory returns the room of this process. In a cgroup with a memory limit
// it has the garbage collector keep 10 % below that, unless GOMEMLIMIT is set.
func LimitMemory() Room {
	r := Room{Descriptors: math.MaxInt64}
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err == nil && files.Cur < math.MaxInt64 {
		r.Descriptors = int64(files.Cur)
	}
	total := machineMemory(os.ReadFile)
	if limit := debug.SetMemoryLimit(-1); limit < math.MaxInt64 {
		r.Memory = limit
	} else if limit := cgroupMemory(os.ReadFile); limit > 0 && (total == 0 || limit < total) {
		debug.SetMemoryLimit(limit / 10 * 9)
		r.Memory = limit
	} else {
		r.Memory = total
	}
	return r
}

// Connections is how many connections there is room for.
func (r Room) Connections() int {
	n := min(maxConnections, r.maxOpen())
	if r.Memory > 0 {
		n = min(n, r.Memory/2/connectionMemory)
	}
	return int(max(n, 1))
}

// maxOpen is how many connections the descriptors allow.
func (r Room) maxOpen() int64 {
	return max(1, r.Descriptors-min(ownDescriptors, r.Descriptors/2))
}

// Check returns an error if n connections need more descriptors than there are.
func (r Room) Check(n int) error {
	if most := r.maxOpen(); int64(n) > most {
		return fmt.Errorf("MAX_CONNECTIONS: the limit of open files, %d, allows %d connections: raise it (ulimit -n, LimitNOFILE) or lower MAX_CONNECTIONS", r.Descriptors, most)
	}
	return nil
}

// cgroupMemory returns the lowest memory limit of the cgroups that the process
// is in, of version 1 or 2, or 0.
func cgroupMemory(read func(string) ([]byte, error)) (limit int64) {
	groups, _ := read("/proc/self/cgroup")
	for line := range strings.Lines(string(groups)) { // 0::/a/b, or 4:memory:/a/b
		_, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		controllers, dir, _ := strings.Cut(rest, ":")
		root, file := "/sys/fs/cgroup", "memory.max"
		switch controllers {
		case "":
		case "memory":
			root, file = "/sys/fs/cgroup/memory", "memory.limit_in_bytes"
		default:
			continue
		}
		for ; ; dir = path.Dir(dir) { // in a container often only the root is there
			b, _ := read(path.Join(root, dir, file))
			if n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64); err == nil && n > 0 {
				limit = min(n, cmp.Or(limit, n))
			}
			if dir == "/" || dir == "." {
				break
			}
		}
	}
	return limit
}

// machineMemory returns the memory of the machine, or 0.
func machineMemory(read func(string) ([]byte, error)) int64 {
	b, _ := read("/proc/meminfo")
	var kib int64
	if _, err := fmt.Sscanf(string(b), "MemTotal: %d kB", &kib); err != nil {
		return 0
	}
	return kib << 10
}

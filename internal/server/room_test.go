package server

import (
	"io/fs"
	"math"
	"strings"
	"testing"
)

func TestRoom(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		room Room
		want int
	}{
		{Room{Memory: 256 << 20, Descriptors: 1 << 20}, 1024},
		{Room{Memory: 1 << 30, Descriptors: 1 << 20}, 4096},
		{Room{Memory: 1 << 30, Descriptors: 1024}, 768},
		{Room{Memory: 1 << 30, Descriptors: 256}, 128},
		{Room{Descriptors: 20_000}, 19_744},
		{Room{Descriptors: math.MaxInt64}, maxConnections},
		{Room{Memory: 1, Descriptors: 1}, 1},
	} {
		if got := tt.room.Connections(); got != tt.want {
			t.Errorf("%+v has room for %d connections, want %d", tt.room, got, tt.want)
		}
	}
	r := Room{Memory: 256 << 20, Descriptors: 1024}
	if err := r.Check(768); err != nil {
		t.Error(err)
	}
	if err := r.Check(769); err == nil || !strings.Contains(err.Error(), "allows 768 connections") {
		t.Errorf("one too many: %v", err)
	}
}

func TestMemoryLimit(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		files       map[string]string
		cgroup, all int64
	}{
		"nothing is known": {nil, 0, 0},
		"version 2, in a container": {map[string]string{
			"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/memory.max": "268435456\n", "/proc/meminfo": "MemTotal:       24000000 kB\nMemFree: 1 kB\n",
		}, 268435456, 24000000 << 10},
		"version 2, a parent has less": {map[string]string{
			"/proc/self/cgroup": "0::/system.slice/helloapi.service\n", "/sys/fs/cgroup/system.slice/helloapi.service/memory.max": "max\n",
			"/sys/fs/cgroup/system.slice/memory.max": "1000\n",
		}, 1000, 0},
		"version 1, in a container": {map[string]string{
			"/proc/self/cgroup": "5:cpu:/docker/abc\n4:memory:/docker/abc\n0::/\n", "/sys/fs/cgroup/memory/memory.limit_in_bytes": "2000\n",
		}, 2000, 0},
	} {
		read := func(name string) ([]byte, error) {
			if text, ok := tt.files[name]; ok {
				return []byte(text), nil
			}
			return nil, fs.ErrNotExist
		}
		if cgroup, all := cgroupMemory(read), machineMemory(read); cgroup != tt.cgroup || all != tt.all {
			t.Errorf("%s: %d of %d, want %d of %d", name, cgroup, all, tt.cgroup, tt.all)
		}
	}
}

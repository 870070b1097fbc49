package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of /proc's times: USER_HZ, which is 100 wherever Go runs.
const tick = 10 * time.Millisecond

// stat returns the fields of /proc/PID/stat from the third on, as proc(5)
// numbers them less 3.
func stat(pid int) ([]string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	return strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:])), nil
}

// cpu returns the time that a process has used, and its children that ended.
func cpu(pid int) (sum time.Duration, err error) {
	fields, err := stat(pid)
	if err != nil {
		return 0, err
	}
	for _, f := range fields[11:15] { // utime, stime, cutime, cstime
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, err
		}
		sum += time.Duration(n) * tick
	}
	return sum, nil
}

// cpuOfTree returns the time that a process and its children have used.
func cpuOfTree(pid int) (time.Duration, error) {
	sum, err := cpu(pid)
	if err != nil {
		return 0, err
	}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return 0, err
	}
	for _, dir := range dirs {
		child, _ := strconv.Atoi(filepath.Base(dir))
		fields, err := stat(child)
		if err != nil || fields[1] != strconv.Itoa(pid) { // it ended, or is no child
			continue
		}
		if t, err := cpu(child); err == nil {
			sum += t
		}
	}
	return sum, nil
}

// memory returns the resident memory of a process, in megabytes.
func memory(pid int) (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(b), "VmRSS:")
	kB, err := strconv.Atoi(strings.Fields(rest)[0])
	return float64(kB) / 1024, err
}

// cpuOfMachine returns the time that all processes have used.
func cpuOfMachine() (sum time.Duration, err error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	line, _, _ := strings.Cut(string(b), "\n")
	for i, f := range strings.Fields(line)[1:9] {
		if i == 3 || i == 4 { // idle, iowait
			continue
		}
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, err
		}
		sum += time.Duration(n) * tick
	}
	return sum, nil
}

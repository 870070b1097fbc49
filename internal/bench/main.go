// Bench is what `make bench` runs: helloapi beside a bare handler, a naive
// version and pgbench, on one machine in one run. It starts them all, puts load
// on one after the other from a process of its own, in rounds that alternate,
// and checks after each round that no number was given twice and that what was
// counted and charged is what was served.
package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"helloapi/internal/apikey"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	switch {
	case len(os.Args) == 2 && os.Args[1] == "load":
		err = loadMain()
	case len(os.Args) == 2 && os.Args[1] == "bare":
		err = bareMain()
	default:
		err = benchMain(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func benchMain(ctx context.Context) error {
	b := &bench{rounds: 3, length: 2 * time.Second, names: 100_000, keys: 100_000, million: 1_000_000}
	short := flag.Bool("short", false, "take about a minute: one short round of the most important")
	only := flag.String("only", "", "measure only what matches this regular expression")
	flag.StringVar(&b.helloapi, "helloapi", "", "measure this binary in place of a build of this tree")
	flag.StringVar(&b.out, "out", "bench", "the folder for results")
	flag.StringVar(&b.profile, "profile", "", "write a CPU profile of helloapi to this file, and measure nothing else")
	flag.Parse()
	if *short {
		b.short, b.rounds, b.length, b.keys, b.million = true, 1, time.Second, 10_000, 100_000
	}
	var err error
	if b.only, err = regexp.Compile(*only); err != nil {
		return err
	}
	if b.dir, err = os.MkdirTemp("", "helloapi-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	defer b.stop()
	if err := b.prepare(ctx); err != nil {
		return err
	}
	if b.profile != "" {
		return b.writeProfile(ctx)
	}
	if err := b.measure(ctx); err != nil {
		return err
	}
	return b.report(os.Stdout)
}

// A bench is one run.
type bench struct {
	short    bool
	rounds   int
	length   time.Duration // of a round
	names    int
	keys     int
	million  int64 // requests before memory is read
	only     *regexp.Regexp
	helloapi string // the binary
	out      string
	profile  string

	dir      string // for data that are removed at the end
	postgres *postgresServer
	redis    *redisServer
	procs    []*process

	bare, naive, one, three, embedded *target
	values                            values

	cells   []*cell
	machine []string // what it runs on, for people
	start   []time.Duration
	memory  [2]float64 // MB at rest, and after a million requests
}

// values are those of the keys that requests carry.
type values struct {
	good, spent, throttled string
	many, unknown          []string
}

// prepare starts everything.
func (b *bench) prepare(ctx context.Context) (err error) {
	if err := onDisk(os.TempDir()); err != nil {
		return err
	}
	if b.postgres, err = openPostgres(ctx, os.Getenv("TEST_DATABASE_URL")); err != nil {
		return err
	}
	if b.redis, err = openRedis(ctx, os.Getenv("TEST_REDIS_URL")); err != nil {
		return err
	}
	naive := filepath.Join(b.dir, "naive")
	if err := b.command(ctx, nil, "go", "build", "-o", naive, "helloapi/internal/bench/naive"); err != nil {
		return err
	}
	if b.helloapi == "" {
		b.helloapi = filepath.Join(b.dir, "helloapi")
		if err := b.command(ctx, []string{"CGO_ENABLED=0"}, "go", "build", "-trimpath", "-o", b.helloapi, "helloapi/cmd/helloapi"); err != nil {
			return err
		}
	} else if b.helloapi, err = filepath.Abs(b.helloapi); err != nil {
		return err
	}
	b.describe(ctx)

	b.values = values{good: value(), spent: value(), throttled: value()}
	for range b.keys {
		b.values.many = append(b.values.many, value())
		b.values.unknown = append(b.values.unknown, value())
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if b.bare, err = b.serve(ctx, nil, self, []string{"bare"}); err != nil {
		return err
	}
	if err := b.prepareNaive(ctx, naive); err != nil {
		return err
	}

	url, err := b.postgres.create(ctx, "helloapi")
	if err != nil {
		return err
	}
	db, err := sql.Open("pgx", url)
	if err != nil {
		return err
	}
	if err := b.fill(ctx, db, "DATABASE_URL="+url); err != nil {
		return err
	}
	redis := "REDIS_URL=" + strings.TrimSuffix(os.Getenv("TEST_REDIS_URL"), "/0") + "/0"
	var replicas []*process
	for range 3 {
		t, err := b.serve(ctx, nil, b.helloapi, []string{"serve"}, "DATABASE_URL="+url, redis, "PPROF=true")
		if err != nil {
			return err
		}
		replicas = append(replicas, t.procs...)
	}
	b.one = &target{procs: replicas[:1], counts: ownCounts{db}, postgre: true}
	b.three = &target{procs: replicas, counts: ownCounts{db}, postgre: true}

	file := filepath.Join(b.dir, "helloapi.db")
	if err := b.command(ctx, []string{"DATABASE_URL=sqlite:" + file}, b.helloapi, "migrate"); err != nil {
		return err
	}
	rw, err := sql.Open("sqlite", "file:"+file+"?_pragma=busy_timeout(5000)")
	if err != nil {
		return err
	}
	if err := errors.Join(b.fill(ctx, rw, "DATABASE_URL=sqlite:"+file), rw.Close()); err != nil {
		return err
	}
	ro, err := openSQLite(file)
	if err != nil {
		return err
	}
	b.embedded, err = b.serve(ctx, ownCounts{ro}, b.helloapi, []string{"serve"}, "DATABASE_URL=sqlite:"+file, "PPROF=true")
	return err
}

func (b *bench) prepareNaive(ctx context.Context, path string) error {
	url, err := b.postgres.create(ctx, "naive")
	if err != nil {
		return err
	}
	db, err := sql.Open("pgx", url)
	if err != nil {
		return err
	}
	if b.naive, err = b.serve(ctx, naiveCounts{db, b.redis}, path, nil, "DATABASE_URL="+url,
		"REDIS_URL="+strings.TrimSuffix(os.Getenv("TEST_REDIS_URL"), "/0")+"/1"); err != nil {
		return err
	}
	b.naive.postgre = true
	hash := sha256.Sum256([]byte(b.values.good))
	if _, err := db.ExecContext(ctx, `INSERT INTO keys VALUES ($1, 'id-1', 1000000, 1000000, 999999999999)`, hash[:]); err != nil {
		return err
	}
	return addNames(ctx, db, b.names)
}

func value() string { return apikey.Generate().Reveal() }

// fill makes plans, keys and names in a database of helloapi.
func (b *bench) fill(ctx context.Context, db *sql.DB, env string) error {
	plans := filepath.Join(b.dir, "plans.yaml")
	if err := os.WriteFile(plans, []byte(`
name: bench
plans:
  open:
    quota: {limit: 999999999999, period: DAY}
    throttle: {rateLimit: 1000000, burstLimit: 1000000}
  spent:
    quota: {limit: 1, period: DAY}
  throttled:
    quota: {limit: 999999999999, period: DAY}
    throttle: {rateLimit: 1, burstLimit: 1}
`), 0o600); err != nil {
		return err
	}
	if err := b.command(ctx, []string{env}, b.helloapi, "migrate"); err != nil {
		return err
	}
	if err := b.command(ctx, []string{env}, b.helloapi, "apply", "-f", plans); err != nil {
		return err
	}
	var csv bytes.Buffer
	csv.WriteString("name,key,description,Enabled,usageplanIds\n")
	fmt.Fprintf(&csv, "good,%s,,true,open\nspent,%s,,true,spent\nthrottled,%s,,true,throttled\n", b.values.good, b.values.spent, b.values.throttled)
	for i, v := range b.values.many {
		fmt.Fprintf(&csv, "key-%d,%s,,true,open\n", i, v)
	}
	keys := filepath.Join(b.dir, "keys.csv")
	if err := os.WriteFile(keys, csv.Bytes(), 0o600); err != nil {
		return err
	}
	if err := b.command(ctx, []string{env}, b.helloapi, "import", "keys", keys,
		"--usage-plan", "open=open", "--usage-plan", "spent=spent", "--usage-plan", "throttled=throttled"); err != nil {
		return err
	}
	return addNames(ctx, db, b.names)
}

// command runs a command, and reports what it printed if it fails.
func (b *bench) command(ctx context.Context, env []string, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", filepath.Base(name), strings.Join(args, " "), err, out)
	}
	return nil
}

// serve starts a server that is stopped at the end.
func (b *bench) serve(ctx context.Context, c counts, path string, args []string, env ...string) (*target, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	p, err := start(ctx, b.dir, path, args, env...)
	if err != nil {
		return nil, err
	}
	b.procs = append(b.procs, p)
	return &target{procs: []*process{p}, counts: c}, nil
}

func (b *bench) stop() {
	for _, p := range b.procs {
		if err := p.stop(); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
		}
	}
}

// describe notes the machine and the settings that matter.
func (b *bench) describe(ctx context.Context) {
	cpuinfo, _ := os.ReadFile("/proc/cpuinfo")
	_, model, _ := strings.Cut(string(cpuinfo), "model name")
	model, _, _ = strings.Cut(strings.TrimLeft(model, "\t :"), "\n")
	pg, _ := b.postgres.show(ctx, "server_version")
	b.machine = []string{
		fmt.Sprintf("%d cores of %s, %s, all processes and the load generator on them", runtime.NumCPU(), cmp.Or(model, runtime.GOARCH), runtime.Version()),
	}
	settings := "PostgreSQL " + strings.Fields(pg)[0] + ":"
	for _, s := range []string{"fsync", "synchronous_commit", "full_page_writes", "wal_sync_method", "shared_buffers"} {
		v, _ := b.postgres.show(ctx, s)
		settings += " " + s + "=" + v
	}
	b.machine = append(b.machine, settings,
		fmt.Sprintf("Redis: appendonly=%s appendfsync=%s", b.redis.setting(ctx, "appendonly"), b.redis.setting(ctx, "appendfsync")),
		fmt.Sprintf("SQLite: WAL, synchronous=FULL. %d rounds of %v each", b.rounds, b.length))
	for _, l := range b.machine {
		fmt.Println(l)
	}
}

// A cell is one kind of load on one target, measured in each round.
type cell struct {
	name    string
	target  *target
	job     job
	flood   *job // runs beside job, and is what is measured but for P50 and P99
	results []result
}

// A result is what a round of a cell came to. Costs are those of one request.
type result struct {
	Rate     float64 // answers a second
	P50, P99 float64 // milliseconds
	Status   map[int]int64
	CPU      map[string]float64 // microseconds, by process
	Trips    float64            // to Redis
	SQL      float64            // statements of PostgreSQL
	Allocs   float64            // objects of the server
	Others   float64            // the share of the machine that other processes used
}

// usage is what was used up to a moment.
type usage struct {
	cpu         map[string]time.Duration
	all         time.Duration
	trips, sql  int64
	allocations float64
}

func (b *bench) usage(ctx context.Context, t *target) (u usage, err error) {
	u.cpu = map[string]time.Duration{}
	if t != nil {
		if u.allocations, err = t.allocations(); err != nil {
			return u, err
		}
	}
	if t == nil || t.postgre {
		if u.trips, err = b.redis.trips(ctx); err != nil {
			return u, err
		}
		if u.sql, err = b.postgres.statements(ctx); err != nil {
			return u, err
		}
		if u.cpu["postgres"], err = cpuOfTree(b.postgres.pid); err != nil {
			return u, err
		}
		if u.cpu["redis"], err = cpu(b.redis.pid); err != nil {
			return u, err
		}
	}
	if t != nil {
		if u.cpu["server"], err = t.cpu(); err != nil {
			return u, err
		}
	}
	u.all, err = cpuOfMachine()
	return u, err
}

// A load is a load process that is ready.
type load struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func newLoad(ctx context.Context, j job) (*load, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	l := &load{cmd: exec.CommandContext(ctx, self, "load")}
	l.cmd.Stderr = os.Stderr
	if l.in, err = l.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := l.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	l.out = bufio.NewReader(out)
	if err := l.cmd.Start(); err != nil {
		return nil, err
	}
	if err := json.NewEncoder(l.in).Encode(j); err != nil {
		return nil, err
	}
	if line, err := l.out.ReadString('\n'); err != nil || line != "ready\n" {
		return nil, errors.Join(errors.New("the load does not begin"), l.cmd.Wait())
	}
	return l, nil
}

func (l *load) begin() error {
	_, err := io.WriteString(l.in, "go\n")
	return err
}

func (l *load) end() (t tally, err error) {
	err = json.NewDecoder(l.out).Decode(&t)
	return t, errors.Join(err, l.cmd.Wait())
}

// round measures a cell once.
func (b *bench) round(ctx context.Context, c *cell) error {
	t := c.target
	var greeted, charged int64
	var err error
	if t.counts != nil {
		if greeted, err = t.counts.greeted(ctx); err != nil {
			return err
		}
		if charged, err = t.counts.charged(ctx); err != nil {
			return err
		}
	}
	jobs := []job{c.job}
	if c.flood != nil {
		jobs = append(jobs, *c.flood)
	}
	var loads []*load
	for _, j := range jobs {
		j.Addrs = t.addrs()
		if j.Requests == 0 {
			j.Duration = b.length
		}
		l, err := newLoad(ctx, j)
		if err != nil {
			return err
		}
		loads = append(loads, l)
	}
	before, err := b.usage(ctx, t)
	if err != nil {
		return err
	}
	for _, l := range loads {
		if err := l.begin(); err != nil {
			return err
		}
	}
	tallies := make([]tally, len(loads))
	for i, l := range loads {
		if tallies[i], err = l.end(); err != nil {
			return err
		}
	}
	after, err := b.usage(ctx, t)
	if err != nil {
		return err
	}
	if t.counts != nil {
		if err := check(ctx, t.counts, greeted, charged, tallies, ledgerTime); err != nil {
			return err
		}
	}
	c.results = append(c.results, newResult(before, after, tallies))
	for _, p := range t.procs {
		if err := os.Truncate(p.log, 0); err != nil {
			return err
		}
	}
	return nil
}

func newResult(before, after usage, tallies []tally) result {
	main := tallies[len(tallies)-1]
	r := result{
		P50: ms(tallies[0].P50), P99: ms(tallies[0].P99),
		Rate:   float64(main.requests()) / main.Took.Seconds(),
		Status: main.Status, CPU: map[string]float64{},
	}
	var requests int64
	var load time.Duration
	for _, t := range tallies {
		requests += t.requests()
		load += t.CPU
	}
	n := float64(requests)
	others := after.all - before.all - load
	for name := range before.cpu {
		used := after.cpu[name] - before.cpu[name]
		others -= used
		r.CPU[name] = float64(used.Microseconds()) / n
	}
	r.CPU["load"] = float64(load.Microseconds()) / n
	r.Others = max(0, others.Seconds()/main.Took.Seconds()/float64(runtime.NumCPU()))
	r.Trips = float64(after.trips-before.trips) / n
	r.SQL = float64(after.sql-before.sql) / n
	r.Allocs = (after.allocations - before.allocations) / n
	return r
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// errWrong is what a server under test must never be.
var errWrong = errors.New("WRONG")

// ledgerTime is how soon what was charged has to be in the ledger, which is
// written each second.
const ledgerTime = 10 * time.Second

// check returns an error unless every number was given once and what was
// counted and, within patience, charged since is what was served.
func check(ctx context.Context, c counts, greeted, charged int64, tallies []tally, patience time.Duration) error {
	var served, twice int64
	for _, t := range tallies {
		served += t.served() + t.WarmUp
		twice += t.Twice
	}
	if twice > 0 {
		return fmt.Errorf("%w: %d numbers were given twice", errWrong, twice)
	}
	now, err := c.greeted(ctx)
	if err != nil {
		return err
	}
	if now-greeted != served {
		return fmt.Errorf("%w: %d requests were served and %d greetings counted", errWrong, served, now-greeted)
	}
	for deadline := time.Now().Add(patience); ; {
		now, err := c.charged(ctx)
		if err != nil {
			return err
		}
		if now-charged == served {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%w: %d requests were served and %d charged", errWrong, served, now-charged)
		}
		if err := wait(ctx); err != nil {
			return err
		}
	}
}

// measure takes all measurements.
func (b *bench) measure(ctx context.Context) error {
	b.plan()
	var begin time.Time
	for round := range b.rounds {
		begin = time.Now()
		for _, c := range b.cells {
			if c.target == nil {
				if err := b.pgbench(ctx, c); err != nil {
					return err
				}
				continue
			}
			if round == 0 && len(c.job.Keys) > 1 { // each has been used: they are active
				l, err := newLoad(ctx, job{Addrs: c.target.addrs(), Conns: 256, Keys: c.job.Keys, Names: 1, Requests: int64(len(c.job.Keys)), Each: true})
				if err != nil {
					return err
				}
				if err := l.begin(); err != nil {
					return err
				}
				if _, err := l.end(); err != nil {
					return err
				}
				time.Sleep(2 * time.Second) // what that charged is in the ledger
			}
			if err := b.round(ctx, c); err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
		}
		fmt.Fprintf(os.Stderr, "round %d of %d: %v\n", round+1, b.rounds, time.Since(begin).Round(time.Second))
	}
	if !b.only.MatchString("start and memory") {
		return nil
	}
	return errors.Join(b.measureStart(ctx), b.measureMemory(ctx))
}

// The names of targets and of cells, in the tables.
const (
	bareName     = "bare chi handler"
	naiveName    = "naive"
	oneName      = "helloapi"
	threeName    = "helloapi, 3 replicas"
	embeddedName = "helloapi, embedded"
)

func cellName(target, what string, conns int) string {
	if conns == 1 {
		return fmt.Sprintf("%s, %s, one connection", target, what)
	}
	return fmt.Sprintf("%s, %s, %s connections", target, what, count(float64(conns)))
}

func (b *bench) many() string { return count(float64(b.names)) + " names" }

// plan lists the cells.
func (b *bench) plan() {
	add := func(t *target, name, what string, names int, keys []string, conns int) {
		b.cells = append(b.cells, &cell{name: cellName(name, what, conns), target: t, job: job{Conns: conns, Names: names, Keys: keys}})
	}
	good := []string{b.values.good}
	add(b.bare, bareName, "one name", 1, good, 256)
	add(b.naive, naiveName, "one name", 1, good, 256)
	add(b.one, oneName, "one name", 1, good, 256)
	b.cells = append(b.cells, &cell{name: cellName("pgbench", "one row", 256), job: job{Conns: 256}})
	add(b.bare, bareName, b.many(), b.names, good, 256)
	add(b.naive, naiveName, b.many(), b.names, good, 256)
	add(b.one, oneName, b.many(), b.names, good, 256)
	add(b.three, threeName, "one name", 1, good, 256)
	add(b.three, threeName, b.many(), b.names, good, 256)
	add(b.embedded, embeddedName, "one name", 1, good, 256)
	add(b.embedded, embeddedName, b.many(), b.names, good, 256)
	add(b.one, oneName, count(float64(b.keys))+" keys", 1, b.values.many, 256)
	conns := []int{1, 4, 16, 64, 1024}
	if b.short {
		conns = []int{1}
	}
	for _, n := range conns {
		add(b.bare, bareName, "one name", 1, good, n)
		add(b.naive, naiveName, "one name", 1, good, n)
		add(b.one, oneName, "one name", 1, good, n)
		add(b.embedded, embeddedName, "one name", 1, good, n)
	}
	add(b.one, oneName, "spent key", 1, []string{b.values.spent}, 256)
	add(b.one, oneName, "throttled key", 1, []string{b.values.throttled}, 256)
	add(b.one, oneName, "unknown keys", 1, b.values.unknown, 256)
	add(b.one, oneName, "good key alone", 1, good, 16)
	add(b.one, oneName, "good key in a flood", 1, good, 16)
	b.cells[len(b.cells)-1].flood = &job{Conns: 64, Names: 1, Keys: b.values.unknown, Rate: 5000}

	b.cells = slices.DeleteFunc(b.cells, func(c *cell) bool { return !b.only.MatchString(c.name) })
}

// pgbench measures PostgreSQL alone, with an upsert for each transaction.
func (b *bench) pgbench(ctx context.Context, c *cell) error {
	script := filepath.Join(b.dir, "upsert.sql")
	if err := os.WriteFile(script, []byte(`INSERT INTO greetings AS g (name, count) VALUES ('pgbench', 1)
ON CONFLICT (name) DO UPDATE SET count = g.count + 1 RETURNING count;
`), 0o600); err != nil {
		return err
	}
	path, err := pgbenchPath()
	if err != nil {
		return err
	}
	db := strings.Replace(b.postgres.url, "/postgres?", "/naive?", 1)
	before, err := b.usage(ctx, nil)
	if err != nil {
		return err
	}
	seconds := max(3, int(b.length.Seconds())) // so many clients take a while to begin
	out, err := exec.CommandContext(ctx, path, "-n", "-M", "prepared", "-c", strconv.Itoa(c.job.Conns), "-j", "2",
		"-T", strconv.Itoa(seconds), "-f", script, db).CombinedOutput()
	if err != nil {
		return fmt.Errorf("pgbench: %w\n%s", err, out)
	}
	after, err := b.usage(ctx, nil)
	if err != nil {
		return err
	}
	find := func(re string) float64 {
		if m := regexp.MustCompile(re).FindSubmatch(out); m != nil {
			v, _ := strconv.ParseFloat(string(m[1]), 64)
			return v
		}
		return 0
	}
	n := find(`transactions actually processed: (\d+)`)
	if n == 0 {
		return fmt.Errorf("pgbench: no transactions\n%s", out)
	}
	c.results = append(c.results, result{
		Rate: find(`tps = ([\d.]+)`), P50: find(`latency average = ([\d.]+)`),
		CPU: map[string]float64{"postgres": float64((after.cpu["postgres"] - before.cpu["postgres"]).Microseconds()) / n},
		SQL: float64(after.sql-before.sql) / n,
	})
	return nil
}

func pgbenchPath() (string, error) {
	if path, err := exec.LookPath("pgbench"); err == nil {
		return path, nil
	}
	paths, _ := filepath.Glob("/usr/lib/postgresql/*/bin/pgbench")
	if len(paths) == 0 {
		return "", errors.New("pgbench is missing: it comes with PostgreSQL")
	}
	return paths[len(paths)-1], nil
}

// measureStart takes the time from the start of an embedded helloapi with data
// to its first answer.
func (b *bench) measureStart(ctx context.Context) error {
	p := b.embedded.procs[0]
	for range 2*b.rounds + 1 {
		if err := p.stop(); err != nil {
			return err
		}
		begin := time.Now()
		next, err := start(ctx, b.dir, b.helloapi, []string{"serve"}, "DATABASE_URL=sqlite:"+filepath.Join(b.dir, "helloapi.db"))
		if err != nil {
			return err
		}
		b.procs = append(b.procs, next)
		c, err := dial(next.addr, 0)
		if err != nil {
			return err
		}
		if err := c.send(0, b.values.good); err != nil || c.status[200] != 1 {
			return fmt.Errorf("the first answer is none: %w", err)
		}
		b.start = append(b.start, time.Since(begin))
		if err := c.conn.Close(); err != nil {
			return err
		}
		p = next
	}
	return nil
}

// measureMemory takes the memory of a fresh replica at rest, and after a
// million requests on a thousand connections.
func (b *bench) measureMemory(ctx context.Context) error {
	var env []string
	for _, e := range b.one.procs[0].cmd.Env {
		if !strings.Contains(e, "ADDR=") {
			env = append(env, e)
		}
	}
	t, err := b.serve(ctx, b.one.counts, b.helloapi, []string{"serve"}, env...)
	if err != nil {
		return err
	}
	t.postgre = true
	time.Sleep(2 * time.Second)
	pid := t.procs[0].cmd.Process.Pid
	if b.memory[0], err = memory(pid); err != nil {
		return err
	}
	c := &cell{name: "memory", target: t, job: job{Conns: 1000, Names: b.names, Keys: []string{b.values.good}, Requests: b.million}}
	if err := b.round(ctx, c); err != nil {
		return err
	}
	b.memory[1], err = memory(pid)
	return err
}

// writeProfile puts the load that matters on helloapi, and writes what took
// its time.
func (b *bench) writeProfile(ctx context.Context) error {
	b.length = 10 * time.Second
	if b.short {
		b.length = 4 * time.Second
	}
	b.plan()
	var files []string
	for _, c := range b.cells {
		if c.job.Conns != 256 || len(c.job.Keys) != 1 || c.job.Keys[0] != b.values.good || c.target != b.one && c.target != b.embedded {
			continue
		}
		file := filepath.Join(b.dir, fmt.Sprintf("profile-%d", len(files)))
		fetched := make(chan error, 1)
		go func() {
			fetched <- fetch(strings.TrimSuffix(c.target.procs[0].metrics, "/metrics")+
				fmt.Sprintf("/debug/pprof/profile?seconds=%d", int(b.length.Seconds())), file)
		}()
		if err := b.round(ctx, c); err != nil {
			return err
		}
		if err := <-fetched; err != nil {
			return err
		}
		files = append(files, file)
	}
	out, err := exec.CommandContext(ctx, "go", append([]string{"tool", "pprof", "-proto"}, files...)...).Output()
	if err != nil {
		return fmt.Errorf("merge profiles: %w", err)
	}
	return os.WriteFile(b.profile, out, 0o644)
}

func fetch(url, file string) error {
	resp, err := http.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, resp.Status)
	}
	return os.WriteFile(file, body, 0o600)
}

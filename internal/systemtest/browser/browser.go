// Package browser looks at the pages of the program in a real Chromium, as its
// tests and the pictures of the README do.
package browser

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// patience is how long a step may take.
const patience = 30 * time.Second

// A Browser is a running Chromium.
type Browser struct {
	ctx   context.Context
	close context.CancelFunc
}

// Start starts Chromium, which ends with Close.
func Start() (*Browser, error) {
	options := []chromedp.ExecAllocatorOption{
		chromedp.WindowSize(1280, 800), chromedp.Flag("lang", "en-US"),
		chromedp.Flag("host-resolver-rules", "MAP "+plainHost+" 127.0.0.1"),
	}
	if os.Getuid() == 0 { // its sandbox does not work for root
		options = append(options, chromedp.NoSandbox)
	}
	ctx, cancel := chromedp.NewContext(context.Background(), chromedp.WithAllocatorOptions(options...))
	if err := chromedp.Do(ctx); err != nil {
		cancel()
		return nil, fmt.Errorf("start Chromium (is it installed? apt-get install chromium): %w", err)
	}
	return &Browser{ctx, cancel}, nil
}

// Close ends Chromium.
func (b *Browser) Close() { b.close() }

// plainHost is this machine by a name that is not trusted without TLS, as
// localhost is.
const plainHost = "api.test"

// A Look is how a page is looked at. Without a width it is 1,280 pixels wide.
type Look struct {
	Width    int64 // in pixels; below 500 it is a phone
	Dark     bool
	Timezone string // the reader's; "" is the machine's
	NoScript bool
	Scale    float64 // pixels of the device for one of the page; 0 is 1
}

// A Page is a tab of a profile of its own. It is for one goroutine.
type Page struct {
	ctx   context.Context
	close context.CancelFunc

	mu       sync.Mutex
	problems []string
	requests []string
}

// Open opens the page at a URL, and waits until it is loaded.
func (b *Browser) Open(url string, look Look) (*Page, error) {
	ctx, cancel := chromedp.NewContext(b.ctx, chromedp.WithNewBrowserContext())
	p := &Page{ctx: ctx, close: cancel}
	if err := p.open(url, look); err != nil {
		cancel()
		return nil, fmt.Errorf("open %s: %w", url, err)
	}
	return p, nil
}

// violations are what a page was kept from by its Content-Security-Policy.
const violations = "securityViolations"

func (p *Page) open(url string, look Look) error {
	if err := chromedp.Listen(p.ctx, p.note); err != nil {
		return err
	}
	if err := p.Show(look); err != nil {
		return err
	}
	_, err := chromedp.Call(p.ctx, page.AddScriptToEvaluateOnNewDocument, page.AddScriptToEvaluateOnNewDocumentParams{
		Source: `window.` + violations + ` = []; addEventListener('securitypolicyviolation', (e) => ` + violations + `.push(e.violatedDirective + ' ' + e.blockedURI))`,
	})
	if err != nil {
		return err
	}
	return p.Do(chromedp.Navigate(url))
}

// Show changes how the page is looked at.
func (p *Page) Show(look Look) error {
	width, scale := look.Width, look.Scale
	if width == 0 {
		width = 1280
	}
	if scale == 0 {
		scale = 1
	}
	scheme := "light"
	if look.Dark {
		scheme = "dark"
	}
	return p.Do(
		call(emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: width, Height: 800, DeviceScaleFactor: scale, Mobile: width < 500}),
		call(emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
			{Name: "prefers-color-scheme", Value: scheme}, {Name: "prefers-reduced-motion", Value: "reduce"},
		}}),
		call(emulation.SetTimezoneOverride, emulation.SetTimezoneOverrideParams{TimezoneID: look.Timezone}),
		call(emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: look.NoScript}),
	)
}

// note keeps what happens in the page.
func (p *Page) note(event any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch e := event.(type) {
	case *runtime.EventExceptionThrown:
		p.problems = append(p.problems, fmt.Sprint("exception: ", e.ExceptionDetails.Text, e.ExceptionDetails.Exception.Description))
	case *runtime.EventConsoleAPICalled:
		p.problems = append(p.problems, fmt.Sprint("console: ", e.Type))
	case *log.EventEntryAdded:
		// Chromium logs each answer of 400 and above, which is no fault of the page.
		if e.Entry.Source != log.EntrySourceNetwork {
			p.problems = append(p.problems, fmt.Sprintf("log: %s: %s", e.Entry.Source, e.Entry.Text))
		}
	case *network.EventRequestWillBeSent:
		p.requests = append(p.requests, e.Request.URL)
	}
}

// Problems are the exceptions, the messages of the console, and the violations
// of the Content-Security-Policy so far.
func (p *Page) Problems() ([]string, error) {
	list, err := Eval[[]string](p, `globalThis.`+violations+` ?? []`)
	p.mu.Lock()
	defer p.mu.Unlock()
	problems := slices.Clone(p.problems)
	for _, v := range list {
		problems = append(problems, "violation: "+v)
	}
	return problems, err
}

// Requests are the URLs that were asked for.
func (p *Page) Requests() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.requests)
}

// Close closes the page.
func (p *Page) Close() { p.close() }

// Do does steps.
func (p *Page) Do(steps ...chromedp.Action[chromedp.Void]) error {
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	return chromedp.Do(ctx, steps...)
}

// Eval returns what a JavaScript expression is in the page. A promise is waited
// for.
func Eval[T any](p *Page, expression string) (T, error) {
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	if err != nil {
		err = fmt.Errorf("%.100s: %w", strings.TrimSpace(expression), err)
	}
	return v, err
}

// Type replaces what is in the field that has an id.
func (p *Page) Type(id, text string) error {
	_, err := Eval[bool](p, fmt.Sprintf(`document.getElementById(%q).focus(), document.activeElement.select(), true`, id))
	if err != nil {
		return err
	}
	if text == "" {
		return p.Press(kb.Delete)
	}
	return p.Do(call(input.InsertText, input.InsertTextParams{Text: text}))
}

// Press presses keys of the keyboard.
func (p *Page) Press(keys string, options ...chromedp.KeyOption) error {
	return p.Do(chromedp.KeyEvent(keys, options...))
}

// Greet clicks the button, and waits for the answer.
func (p *Page) Greet() error {
	return p.Do(chromedp.Click(chromedp.ID("send")), Until(`document.querySelector('#send:not([aria-disabled])')`))
}

// Screenshot returns a picture of the whole page, as PNG.
func (p *Page) Screenshot() ([]byte, error) {
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	return chromedp.Run(ctx, chromedp.FullScreenshot(100))
}

// Screen returns a picture of what is on the screen, as PNG.
func (p *Page) Screen() ([]byte, error) {
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	return chromedp.Run(ctx, chromedp.CaptureScreenshot())
}

// Until waits until a JavaScript expression is true.
func Until(expression string) chromedp.Action[chromedp.Void] {
	return func(ctx context.Context, t *chromedp.Target) (chromedp.Void, error) {
		_, err := chromedp.Poll[bool](`Boolean(`+expression+`)`)(ctx, t)
		if err != nil {
			err = fmt.Errorf("wait until %s: %w", expression, err)
		}
		return chromedp.Void{}, err
	}
}

// call is a command of the protocol as a step.
func call[P, R any](command cdp.Command[P, R], params P) chromedp.Action[chromedp.Void] {
	return func(ctx context.Context, t *chromedp.Target) (chromedp.Void, error) {
		_, err := cdp.Call(ctx, t, command, params)
		return chromedp.Void{}, err
	}
}

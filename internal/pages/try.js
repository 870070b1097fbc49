'use strict';

// The page to try the API. The key is in its field and in no other place: not
// in the address, not in storage. Text of others is only ever set as text.

const $ = (id) => document.getElementById(id);
const form = $('form'), keyField = $('key'), nameField = $('name');

// Where the API is: beside this page, also where a proxy adds a path before it.
const address = (path) => new URL(path, document.baseURI).href;

const timeout = 30_000; // milliseconds; the server answers within REQUEST_TIMEOUT

// What is known of the key that was used last.
let current = { key: null };

const theKey = () => keyField.value.trim();
// Half of a pair of surrogates can't be encoded.
const theName = () => nameField.value.replace(/[\ud800-\udbff][\udc00-\udfff]|[\ud800-\udfff]/g, (c) => (c.length === 2 ? c : '\ufffd'));

/* Words and numbers */

const number = (n) => n.toLocaleString('en');
const count = (n, unit) => `${number(n)} ${unit}${n === 1 ? '' : 's'}`;

// The page speaks English; how a time is written is up to the reader.
const locale = /^en\b/.test(navigator.language) ? navigator.language : 'en-GB';

// span says how long so many seconds are.
function span(seconds) {
  if (seconds < 90) return count(Math.max(1, Math.ceil(seconds)), 'second');
  const minutes = Math.ceil(seconds / 60);
  if (minutes < 60) return count(minutes, 'minute');
  if (minutes < 48 * 60) return [count(Math.floor(minutes / 60), 'hour'), minutes % 60 && count(minutes % 60, 'minute')].filter(Boolean).join(' ');
  return count(Math.floor(minutes / 60 / 24), 'day');
}

// moment says when t (milliseconds) is, in the reader's own time.
function moment(t) {
  const date = new Date(t), day = (offset) => new Date(new Date(now()).setDate(new Date(now()).getDate() + offset)).toDateString();
  const clock = date.toLocaleTimeString(locale, { hour: 'numeric', minute: '2-digit' });
  if (date.toDateString() === day(0)) return `today at ${clock}`;
  if (date.toDateString() === day(1)) return `tomorrow at ${clock}`;
  return `${date.toLocaleDateString(locale, { weekday: 'short', day: 'numeric', month: 'short' })} at ${clock}`;
}

// The time is the server's: the reader's clock may be off.
let clockOffset = 0;
const now = () => Date.now() + clockOffset;
function readClock(headers) {
  const date = Date.parse(headers.get('Date'));
  if (date) clockOffset = date - Date.now();
}

/* Asking */

async function ask(path, key) {
  const response = await fetch(address(path), { headers: { 'x-api-key': key }, cache: 'no-store', signal: AbortSignal.timeout(timeout) });
  const text = await response.text();
  readClock(response.headers);
  let body = null;
  try { body = JSON.parse(text); } catch { /* not ours */ }
  return { status: response.status, headers: response.headers, text, body };
}

// limits reads RateLimit and RateLimit-Policy.
function limits(headers) {
  const read = (field, pattern) => (headers.get(field) || '').match(pattern)?.slice(1).map(Number);
  const quota = read('RateLimit', /"quota";r=(\d+);t=(\d+)/);
  const policy = read('RateLimit-Policy', /"quota";q=(\d+)/);
  return {
    quota: quota && policy && { limit: policy[0], left: quota[0], resets: now() + quota[1] * 1000 },
    throttled: /"throttle"/.test(headers.get('RateLimit') || ''),
    wait: Number(headers.get('Retry-After')) || null,
  };
}

// explain says in plain words why an answer is no greeting.
function explain({ status, headers, body }) {
  const { quota, throttled, wait } = limits(headers);
  const again = wait ? ` Try again in ${span(wait)}.` : '';
  const message = typeof body?.message === 'string' ? body.message : '';
  switch (status) {
    case 400:
      return ['That is not a valid request.', `${message}. Nothing was charged.`];
    case 403:
      return ['This key is refused.', 'It may be incomplete, unknown, disabled, expired or without a plan. Whoever runs this API can look it up with “helloapi keys which”.'];
    case 429:
      if (throttled) return ['Not so fast.', `The plan of this key limits how fast requests may come.${again} This one was not charged.`];
      return ['The quota is used up.', quota ? `This key works again ${moment(quota.resets)} your time. This request was not charged.` : `This request was not charged.${again}`];
    case 503:
      return ['The server can’t answer now.', `It can’t reach a store, or has too much to do. Nothing was charged.${again}`];
  }
  if (!headers.has('X-Request-Id')) {
    return ['The API did not answer.', `Something in front of it did, with ${status}.${again}`];
  }
  if (status === 500) return ['Something went wrong in the server.', `Its log has the cause, under ${headers.get('X-Request-Id')}.`];
  return [message || `The server answered ${status}.`, again.trim()];
}

/* The answer */

const reasons = { 200: 'OK', 400: 'Bad Request', 403: 'Forbidden', 404: 'Not Found', 429: 'Too Many Requests', 500: 'Internal Server Error', 502: 'Bad Gateway', 503: 'Service Unavailable', 504: 'Gateway Timeout' };

function setText(id, text) {
  $(id).textContent = text;
  $(id).hidden = !text;
}

function showAnswer({ state, title, detail = '', spoken = '', failed = false }) {
  $('preview').hidden = true;
  $('answer').className = failed ? 'failed' : '';
  setText('state', state);
  setText('detail', detail);
  setText('spoken', spoken);
  const greeting = $('greeting');
  greeting.className = [...title].length > 60 ? 'greeting long' : 'greeting';
  const [, before, numeral, after] = (!failed && title.match(/^(.*)(#\d+)(!)$/s)) || [null, title, '', ''];
  const strong = document.createElement('span');
  strong.className = 'number';
  strong.textContent = numeral;
  greeting.replaceChildren(before, strong, after);
  greeting.hidden = false;
  $('answer').scrollIntoView({ block: 'nearest', behavior: matchMedia('(prefers-reduced-motion: reduce)').matches ? 'auto' : 'smooth' });
}

async function greet() {
  const key = theKey(), name = theName();
  setText('key-error', '');
  keyField.removeAttribute('aria-invalid');
  const refuse = (why) => {
    setText('key-error', why);
    keyField.setAttribute('aria-invalid', 'true');
    keyField.focus();
  };
  if (!key) return refuse('Enter a key. “make run” shows two at its first start; “helloapi keys rotate testkey1” gives one a new value.');
  if (!/^[\x21-\x7e]+$/.test(key)) return refuse('A key has letters, digits and signs of ASCII, and no spaces.');

  if (key !== current.key) {
    current = { key };
    for (const id of ['quota', 'usage']) $(id).hidden = true;
  }
  const started = performance.now();
  let answer;
  try {
    answer = await ask('hello?name=' + encodeURIComponent(name), key);
  } catch (error) {
    $('raw').hidden = true;
    return showAnswer({
      state: navigator.onLine ? 'no answer' : 'offline', failed: true,
      title: navigator.onLine ? 'The server does not answer.' : 'You are offline.',
      detail: `Nothing answered at ${address('.')}${error.name === 'TimeoutError' ? ` within ${timeout / 1000} seconds` : ''}. Check that it is running and that you are connected, then try again. The quota shows then whether this request was charged.`,
    });
  }
  const took = Math.max(1, Math.round(performance.now() - started));
  const { status, headers, body } = answer;
  const state = [`${status} ${reasons[status] || ''}`.trim(), `${number(took)} ms`].join(' · ');
  showHeaders(answer);
  const { quota } = limits(headers);
  if (quota) showQuota(quota);
  if (status === 200 && typeof body?.message === 'string') {
    showAnswer({ state, title: body.message, spoken: quota && `${$('left').textContent}. ${$('resets').textContent}` });
  } else {
    const [title, detail] = explain(answer);
    showAnswer({ state, title, detail, failed: true });
  }
  if (status === 403) keyField.setAttribute('aria-invalid', 'true');
  else if (headers.has('X-Request-Id')) askUsageSoon(key);
}

function showHeaders({ status, headers, text }) {
  const lines = [...headers].map(([name, value]) => `${name}: ${value}`);
  $('headers').textContent = [`HTTP ${status}`, ...lines, '', text].join('\n');
  $('raw').hidden = false;
}

/* The quota */

function showQuota(quota) {
  current.quota = quota;
  setText('left', `${number(quota.left)} of ${number(quota.limit)} left`);
  const bar = $('bar');
  bar.setAttribute('aria-valuemax', quota.limit);
  bar.setAttribute('aria-valuenow', quota.left);
  bar.setAttribute('aria-valuetext', $('left').textContent);
  bar.firstElementChild.style.width = `${100 * Math.min(1, quota.left / quota.limit)}%`;
  showReset();
  $('quota').hidden = false;
}

function showReset() {
  if (!current.quota) return;
  const seconds = (current.quota.resets - now()) / 1000;
  setText('resets', seconds > 0 ? `Resets ${moment(current.quota.resets)} your time, in ${span(seconds)}` : 'A new window has begun since');
}
setInterval(showReset, 10_000);

/* The last 30 days */

let usageTimer;

// askUsageSoon asks a moment after the last answer: GET /usage is throttled as
// well, and has what other replicas charged only a second later.
function askUsageSoon(key, wait = current.usage ? 1.2 : 0, tries = 3) {
  clearTimeout(usageTimer);
  usageTimer = setTimeout(async () => {
    const answer = await ask('usage', key).catch(() => null);
    if (!answer || key !== current.key) return;
    if (answer.status === 200 && answer.body) return showUsage(answer.body);
    const again = limits(answer.headers).wait;
    if (again && tries > 1) askUsageSoon(key, again, tries - 1);
  }, wait * 1000);
}

function showUsage(usage) {
  current.usage = usage;
  $('quota-title').textContent = `Quota of plan ${usage.plan}`;
  if (!usage.quota) {
    current.quota = null;
    $('quota').hidden = true;
  } else if (!current.quota) {
    const { limit, granted, remaining, resetsAt } = usage.quota;
    showQuota({ limit: limit + granted, left: remaining, resets: Date.parse(resetsAt) });
  }

  const days = lastDays(usage);
  const total = days.reduce((sum, d) => sum + d.used, 0);
  const most = days.reduce((a, b) => (b.used > a.used ? b : a));
  $('total').textContent = `${number(total)} used`;
  $('first-day').textContent = dayName(days[0].date);
  const label = `${number(total)} used in the last 30 days` + (total ? `, most on ${dayName(most.date)}: ${number(most.used)}` : '');
  $('chart').replaceChildren(drawDays(days, most.used, label), tableOf(days.filter((d) => d.used)));
  $('usage').hidden = false;
}

// lastDays returns the last 30 days in the plan's time zone, with those on which
// nothing was used.
function lastDays({ days, quota }) {
  const write = (timeZone) => new Intl.DateTimeFormat('en-CA', { timeZone, year: 'numeric', month: '2-digit', day: '2-digit' }).format(now());
  let today;
  try { today = write(quota?.timezone || 'UTC'); } catch { today = write('UTC'); } // a zone that this browser does not know
  const used = new Map(days.map((d) => [d.date, d.used]));
  return Array.from({ length: 30 }, (_, i) => {
    const date = new Date(Date.parse(today) - (29 - i) * 86_400_000).toISOString().slice(0, 10);
    return { date, used: used.get(date) || 0 };
  });
}

const dayName = (date) => new Date(date).toLocaleDateString(locale, { timeZone: 'UTC', day: 'numeric', month: 'short' });

function drawDays(days, most, label) {
  const make = (name, attributes, ...children) => {
    const element = document.createElementNS('http://www.w3.org/2000/svg', name);
    for (const [k, v] of Object.entries(attributes)) element.setAttribute(k, v);
    element.append(...children);
    return element;
  };
  const height = 60, step = 10;
  return make('svg', { viewBox: `0 0 ${days.length * step - 3} ${height}`, preserveAspectRatio: 'none', role: 'img', 'aria-label': label }, ...days.map(({ date, used }, i) => {
    const h = used ? Math.max(3, (used / most) * height) : 1;
    return make('g', {},
      make('title', {}, `${dayName(date)}: ${number(used)}`),
      make('rect', { class: 'whole', x: i * step, y: 0, width: step - 3, height }),
      make('rect', { class: used ? 'day' : 'none', x: i * step, y: height - h, width: step - 3, height: h }));
  }));
}

// tableOf is the chart for those who do not see it.
function tableOf(days) {
  const wrap = document.createElement('div'), table = document.createElement('table');
  wrap.className = 'sr';
  wrap.append(table);
  table.createCaption().textContent = 'Used on each day; on other days nothing';
  for (const { date, used } of days) {
    const row = table.insertRow();
    row.insertCell().textContent = dayName(date);
    row.insertCell().textContent = number(used);
  }
  return days.length ? wrap : '';
}

/* Code */

// json is a string as JavaScript, Python and Go write it between double quotes.
// What can't be seen is written as an escape.
const json = (s) => JSON.stringify(s).replace(/[\u007f-\u00a0\u00ad\u061c\u180e\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\ufeff\ufff9-\ufffb]/g, (c) => '\\u' + c.charCodeAt(0).toString(16).padStart(4, '0'));
// shell is a string as a POSIX shell writes it.
const shell = (s) => `'${s.replaceAll("'", `'\\''`)}'`;
const inURL = (s) => encodeURIComponent(s).replaceAll("'", '%27');

const snippets = {
  curl: (key, name, url) => `curl -H ${shell('x-api-key: ' + key)} \\
  ${shell(`${url}?name=${inURL(name)}`)}`,

  javascript: (key, name, url) => `const url = new URL(${json(url)})
url.searchParams.set("name", ${json(name)})

const response = await fetch(url, { headers: { "x-api-key": ${json(key)} } })
console.log(response.status, await response.json())`,

  python: (key, name, url) => `import urllib.error, urllib.parse, urllib.request

url = ${json(url + '?')} + urllib.parse.urlencode({"name": ${json(name)}})
request = urllib.request.Request(url, headers={"x-api-key": ${json(key)}})
try:
    response = urllib.request.urlopen(request)
except urllib.error.HTTPError as error:  # 403, 429 and all others
    response = error
print(response.status, response.read().decode())`,

  go: (key, name, url) => `package main

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/url"
)

func main() {
	query := url.Values{"name": {${json(name)}}}
	req, err := http.NewRequest("GET", ${json(url + '?')}+query.Encode(), nil)
	if err != nil {
		log.Fatal(err)
	}
	req.Header.Set("x-api-key", ${json(key)})
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(resp.StatusCode, string(body))
}`,
};

const tabs = [...document.querySelectorAll('[role=tab]')];
const language = () => tabs.find((t) => t.getAttribute('aria-selected') === 'true').id.slice('tab-'.length);
const snippet = (key) => snippets[language()](key, theName(), address('hello'));

// A key that is hidden is hidden here too; what is copied has it.
const hidden = 'hk_••••••••••••';
const shownKey = () => (!theKey() ? 'hk_…' : keyField.type === 'password' ? hidden : theKey());

function showSnippet() {
  $('snippet').textContent = snippet(shownKey());
}

function choose(tab) {
  for (const t of tabs) {
    t.setAttribute('aria-selected', t === tab);
    t.tabIndex = t === tab ? 0 : -1;
  }
  $('code').setAttribute('aria-labelledby', tab.id);
  showSnippet();
}

for (const [i, tab] of tabs.entries()) {
  tab.addEventListener('click', () => choose(tab));
  tab.addEventListener('keydown', (event) => {
    const to = { ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: -1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const next = tabs.at(to % tabs.length);
    choose(next);
    next.focus();
  });
}

$('snippet').addEventListener('copy', (event) => {
  const part = String(getSelection());
  if (!part.includes(hidden)) return;
  event.clipboardData.setData('text/plain', part.replaceAll(hidden, keyAsWritten()));
  event.preventDefault();
});

// keyAsWritten is the key as it is between the quotes of the language.
const keyAsWritten = () => (language() === 'curl' ? shell : json)(theKey()).slice(1, -1);

// copy works also where the page is not secure, and has no clipboard.
async function copy(text) {
  try {
    return await navigator.clipboard.writeText(text);
  } catch { /* not allowed, or not there */ }
  const area = document.createElement('textarea');
  area.value = text;
  area.className = 'sr';
  document.body.append(area);
  area.select();
  document.execCommand('copy');
  area.remove();
  $('copy').focus();
}

let copiedTimer;
$('copy').addEventListener('click', async () => {
  await copy(snippet(theKey() || 'hk_…'));
  $('copy').textContent = 'Copied';
  $('copied').textContent = 'Copied';
  clearTimeout(copiedTimer);
  copiedTimer = setTimeout(() => {
    $('copy').textContent = 'Copy';
    $('copied').textContent = '';
  }, 2000);
});

/* The form */

function showName() {
  const name = theName().normalize('NFC') || 'anonymous';
  const waiting = document.querySelector('.waiting');
  waiting.textContent = `Hello ${name} #…`;
  waiting.classList.toggle('long', [...name].length > 50);
}

form.addEventListener('input', () => {
  keyField.removeAttribute('aria-invalid');
  setText('key-error', '');
  showName();
  showSnippet();
});

let busy = false;
form.addEventListener('submit', async (event) => {
  event.preventDefault();
  if (busy) return;
  busy = true;
  $('send').setAttribute('aria-disabled', 'true');
  try {
    await greet();
  } finally {
    busy = false;
    $('send').removeAttribute('aria-disabled');
  }
});

$('reveal').addEventListener('click', () => {
  const show = keyField.type === 'password';
  keyField.type = show ? 'text' : 'password';
  $('reveal').textContent = show ? 'Hide' : 'Show';
  $('reveal').setAttribute('aria-label', show ? 'Hide key' : 'Show key');
  showSnippet();
});

showName();
showSnippet();

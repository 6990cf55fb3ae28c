//! A headless Chromium, controlled through its DevTools protocol.
//!
//! The protocol uses two pipes (`--remote-debugging-pipe`): messages in JSON, each ended by a zero byte. That needs no
//! port, no web socket and no crate, and the browser ends when the pipes close, however a test ends.

use std::{
    collections::HashMap,
    env,
    path::PathBuf,
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::{mpsc, oneshot},
};

use crate::support::soon;

/// How long the page may take to reach a condition. Long, so that a busy machine fails no test.
const PATIENCE: Duration = Duration::from_secs(45);

/// A browser with one page and a private profile, which is removed with it.
pub(super) struct Browser {
    child: Child,
    wire: Wire,
    session: String,
    profile: PathBuf,
}

/// Calls without an answer so far, by number.
type Pending = Arc<Mutex<HashMap<u64, oneshot::Sender<Value>>>>;

#[derive(Clone)]
struct Wire {
    out: mpsc::UnboundedSender<String>,
    last: Arc<AtomicU64>,
    pending: Pending,
    complaints: Arc<Mutex<Vec<String>>>,
}

impl Browser {
    /// Opens a browser with an empty page, 1280 by 860, in light colours.
    pub(super) async fn open() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let profile = env::temp_dir().join(format!("console-test-{}-{number}", std::process::id()));
        std::fs::create_dir(&profile).unwrap();
        // A shell puts the pipes on file descriptors 3 and 4, where the browser expects them. `exec` makes the started
        // process the browser itself. There is no sandbox: it does not work for root, as which tests in containers run,
        // and the browser opens only our own page.
        let script = "exec chromium --headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run \
                      --disable-extensions --disable-background-networking --hide-scrollbars --lang=en-US \
                      --remote-debugging-pipe --user-data-dir=\"$0\" about:blank 3<&0 4>&1 </dev/null >/dev/null 2>&1";
        let mut child = Command::new("sh")
            .args(["-c", script])
            .arg(&profile)
            .env("TZ", "UTC")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let wire = Wire::new(child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let targets = wire
            .call(None, "Target.getTargets", json!({}))
            .await
            .unwrap_or_else(|_| {
                panic!("chromium does not start: install it with `apt-get install chromium`, as tests/all.sh does")
            });
        let page = targets["targetInfos"].as_array().unwrap().iter();
        let page = page.clone().find(|target| target["type"] == "page").unwrap();
        let attach = json!({ "targetId": page["targetId"], "flatten": true });
        let attached = wire.call(None, "Target.attachToTarget", attach).await.unwrap();
        let browser = Self {
            child,
            wire,
            session: attached["sessionId"].as_str().unwrap().to_owned(),
            profile,
        };
        for domain in ["Page", "Runtime", "Network", "Log", "Audits", "DOM"] {
            browser.call(&format!("{domain}.enable"), json!({})).await;
        }
        let helpers = json!({ "source": HELPERS });
        browser.call("Page.addScriptToEvaluateOnNewDocument", helpers).await;
        browser.resize(1280, 860).await;
        browser.colours("light").await;
        browser
    }

    async fn call(&self, method: &str, params: Value) -> Value {
        let answer = self.wire.call(Some(&self.session), method, params).await;
        answer.unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    pub(super) async fn resize(&self, width: u32, height: u32) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 700 });
        self.call("Emulation.setDeviceMetricsOverride", size).await;
    }

    /// Sets the system's colour scheme: `light` or `dark`.
    pub(super) async fn colours(&self, scheme: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.call("Emulation.setEmulatedMedia", json!({ "features": features }))
            .await;
    }

    /// Cuts the page off from every server, or ends that. An open stream stays open.
    pub(super) async fn offline(&self, offline: bool) {
        let conditions = json!({ "offline": offline, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1 });
        self.call("Network.emulateNetworkConditions", conditions).await;
    }

    pub(super) async fn go(&self, url: impl AsRef<str>) {
        self.call("Page.navigate", json!({ "url": url.as_ref() })).await;
        self.until("document.readyState === 'complete' && document.querySelector('main > *')")
            .await;
    }

    /// Goes there from another page, so that nothing of the old content is left.
    pub(super) async fn open_anew(&self, url: impl AsRef<str>) {
        self.call("Page.navigate", json!({ "url": "about:blank" })).await;
        self.until("location.href === 'about:blank'").await;
        self.go(url).await;
    }

    /// The value of an expression. A promise is awaited.
    #[track_caller]
    pub(super) fn eval(&self, expression: &str) -> impl Future<Output = Value> + use<'_> {
        let place = std::panic::Location::caller();
        let params =
            json!({ "expression": expression, "awaitPromise": true, "returnByValue": true, "userGesture": true });
        let expression = expression.to_owned();
        async move {
            let answer = self.call("Runtime.evaluate", params).await;
            if let Some(thrown) = answer.get("exceptionDetails") {
                panic!("{place}: {expression}: {}", thrown["exception"]["description"]);
            }
            answer["result"]["value"].clone()
        }
    }

    /// Waits until the value of an expression is true. Answers with that value.
    #[track_caller]
    pub(super) fn until(&self, expression: &str) -> impl Future<Output = Value> + use<'_> {
        let place = std::panic::Location::caller();
        let expression = expression.to_owned();
        async move {
            let asked = format!("Promise.resolve({expression}).then((it) => (it instanceof Node ? true : it))");
            let give_up = tokio::time::Instant::now() + PATIENCE;
            loop {
                let params = json!({ "expression": asked, "awaitPromise": true, "returnByValue": true });
                // Between two pages there is none to evaluate in.
                let answer = self.wire.call(Some(&self.session), "Runtime.evaluate", params).await;
                let value = answer
                    .map(|answer| answer["result"]["value"].clone())
                    .unwrap_or_default();
                if !matches!(value, Value::Null | Value::Bool(false)) && value != json!(0) && value != json!("") {
                    return value;
                }
                if tokio::time::Instant::now() > give_up {
                    let text = self.text("body").await;
                    let complaints = self.complaints();
                    panic!("{place}: it never came to {expression}; complaints: {complaints:?}; the page says: {text}");
                }
                tokio::time::sleep(Duration::from_millis(40)).await;
            }
        }
    }

    /// Waits for an element that contains this text.
    #[track_caller]
    pub(super) fn sees(&self, selector: &str, text: &str) -> impl Future<Output = Value> + use<'_> {
        self.until(&format!("$t({}, {})", json!(selector), json!(text)))
    }

    pub(super) async fn text(&self, selector: &str) -> String {
        let text = self.eval(&format!("document.querySelector({})?.innerText ?? ''", json!(selector)));
        text.await.as_str().unwrap_or_default().to_owned()
    }

    pub(super) async fn count(&self, selector: &str) -> u64 {
        let count = self.eval(&format!("document.querySelectorAll({}).length", json!(selector)));
        count.await.as_u64().unwrap()
    }

    /// Clicks with the mouse on the element that contains this text, as soon as it can be hit.
    #[track_caller]
    pub(super) fn click(&self, selector: &str, text: &str) -> impl Future<Output = ()> + use<'_> {
        let point = self.until(&format!("$point({}, {})", json!(selector), json!(text)));
        async move {
            let point = point.await;
            for kind in ["mousePressed", "mouseReleased"] {
                let event = json!({ "type": kind, "x": point[0], "y": point[1], "button": "left", "clickCount": 1 });
                self.call("Input.dispatchMouseEvent", event).await;
            }
        }
    }

    /// Replaces the content of a field.
    #[track_caller]
    pub(super) fn fill(&self, selector: &str, text: &str) -> impl Future<Output = ()> + use<'_> {
        let focused = self.until(&format!("$fill({})", json!(selector)));
        let text = text.to_owned();
        async move {
            focused.await;
            match text.is_empty() {
                true => self.press("Delete").await,
                false => self.write(&text).await,
            }
        }
    }

    /// Types into the focused element.
    pub(super) async fn write(&self, text: &str) {
        self.call("Input.insertText", json!({ "text": text })).await;
    }

    /// Presses a key: `a`, `?`, `Enter`, `Tab`, `Shift+Tab`.
    pub(super) async fn press(&self, key: &str) {
        let (shift, key) = match key.strip_prefix("Shift+") {
            Some(key) => (8, key),
            None => (0, key),
        };
        let (code, text) = match key {
            "Enter" => (13, "\r"),
            "Tab" => (9, ""),
            "Escape" => (27, ""),
            "Delete" => (46, ""),
            " " => (32, " "),
            letter => (0, letter),
        };
        let code_name = if key == " " { "Space" } else { key };
        for kind in ["keyDown", "keyUp"] {
            let event = json!({
                "type": kind, "key": key, "code": code_name, "windowsVirtualKeyCode": code, "modifiers": shift,
                "text": if kind == "keyDown" { text } else { "" },
            });
            self.call("Input.dispatchKeyEvent", event).await;
        }
    }

    /// The page as a PNG.
    pub(super) async fn screenshot(&self) -> Vec<u8> {
        let answer = self.call("Page.captureScreenshot", json!({ "format": "png" })).await;
        STANDARD.decode(answer["data"].as_str().unwrap()).unwrap()
    }

    /// Errors on the console, exceptions, violations of the policy, and dialogs that a script opened.
    pub(super) fn complaints(&self) -> Vec<String> {
        self.wire.complaints.lock().unwrap().clone()
    }

    pub(super) fn forget_complaints(&self) {
        self.wire.complaints.lock().unwrap().clear();
    }

    /// Ends the browser. There must be no complaints.
    #[track_caller]
    pub(super) fn close(self) -> impl Future<Output = ()> {
        let place = std::panic::Location::caller();
        async move {
            let complaints = self.complaints();
            self.end().await;
            assert!(complaints.is_empty(), "{place}: {complaints:#?}");
        }
    }

    async fn end(mut self) {
        let _ = self.wire.call(None, "Browser.close", json!({})).await;
        let _ = soon(self.child.wait()).await;
    }
}

impl Drop for Browser {
    /// A failed test leaves no browser behind: the process is killed by its id, and its children follow.
    fn drop(&mut self) {
        let _ = self.child.start_kill();
        // Its children write until they have noticed.
        for _ in 0..40 {
            let removed = std::fs::remove_dir_all(&self.profile);
            if removed.is_ok() && !self.profile.exists() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Wire {
    fn new(to: ChildStdin, from: ChildStdout) -> Self {
        let (out, messages) = mpsc::unbounded_channel();
        let wire = Self {
            out,
            last: Arc::default(),
            pending: Arc::default(),
            complaints: Arc::default(),
        };
        tokio::spawn(write(to, messages));
        tokio::spawn(wire.clone().read(from));
        wire
    }

    async fn call(&self, session: Option<&str>, method: &str, params: Value) -> Result<Value, String> {
        let id = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let (answered, answer) = oneshot::channel();
        self.pending.lock().unwrap().insert(id, answered);
        let mut message = json!({ "id": id, "method": method, "params": params });
        if let Some(session) = session {
            message["sessionId"] = session.into();
        }
        self.out.send(message.to_string()).map_err(|error| error.to_string())?;
        let mut answer = soon(answer).await.map_err(|_| "the browser has ended".to_owned())?;
        match answer.get("error") {
            Some(error) => Err(error.to_string()),
            None => Ok(answer["result"].take()),
        }
    }

    async fn read(self, from: ChildStdout) {
        let mut from = BufReader::new(from);
        let mut bytes = Vec::new();
        while from.read_until(0, &mut bytes).await.is_ok_and(|length| length > 0) {
            let message: Value = serde_json::from_slice(&bytes[..bytes.len() - 1]).unwrap_or_default();
            bytes.clear();
            match message["id"].as_u64() {
                Some(id) => {
                    if let Some(answered) = self.pending.lock().unwrap().remove(&id) {
                        let _ = answered.send(message);
                    }
                }
                None => self.hear(&message),
            }
        }
        // Calls without an answer will not get one.
        self.pending.lock().unwrap().clear();
    }

    fn hear(&self, event: &Value) {
        let params = &event["params"];
        let complaint = match event["method"].as_str().unwrap_or_default() {
            "Runtime.exceptionThrown" => params["exceptionDetails"].to_string(),
            "Runtime.consoleAPICalled" if matches!(params["type"].as_str(), Some("error" | "assert" | "warning")) => {
                params["args"].to_string()
            }
            "Log.entryAdded" if matches!(params["entry"]["level"].as_str(), Some("error" | "warning")) => {
                params["entry"].to_string()
            }
            "Audits.issueAdded" if params["issue"]["code"] == "ContentSecurityPolicyIssue" => params.to_string(),
            "Page.javascriptDialogOpening" => {
                let dismiss = json!({
                    "id": self.last.fetch_add(1, Ordering::Relaxed) + 1,
                    "method": "Page.handleJavaScriptDialog",
                    "params": { "accept": false },
                    "sessionId": event["sessionId"],
                });
                let _ = self.out.send(dismiss.to_string());
                format!("a script opened a dialog: {params}")
            }
            _ => return,
        };
        self.complaints.lock().unwrap().push(complaint);
    }
}

async fn write(mut to: ChildStdin, mut messages: mpsc::UnboundedReceiver<String>) {
    while let Some(message) = messages.recv().await {
        let mut bytes = message.into_bytes();
        bytes.push(0);
        if to.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

/// Functions that tests use in a page.
const HELPERS: &str = r#"
// The element of a selector that shows a text; the innermost, where several do.
window.$t = (selector, text) => [...document.querySelectorAll(selector)].findLast(
  (element) => element.checkVisibility() && (element.innerText ?? element.textContent).includes(text));
// Where to click it, once it is there, enabled, still and on top.
window.$point = async (selector, text) => {
  const element = $t(selector, text);
  if (!element || element.disabled) return null;
  element.scrollIntoView({ block: 'center', behavior: 'instant' });
  const where = () => {
    const { x, y, width, height } = element.getBoundingClientRect();
    return [x + width / 2, y + height / 2];
  };
  const before = where();
  await new Promise((resolve) => setTimeout(resolve, 30));
  const [x, y] = where();
  const top = document.elementFromPoint(x, y);
  const hit = top && (element.contains(top) || top.contains(element) || top.closest('label')?.contains(element));
  return hit && before[0] === x && before[1] === y ? [x, y] : null;
};
window.$fill = (selector) => {
  const field = document.querySelector(selector);
  if (!field || field.disabled) return false;
  field.focus();
  field.select?.();
  return document.activeElement === field;
};
// A colour as the screen shows it.
const known = new Map();
window.$rgb = (colour) => {
  if (!known.has(colour)) known.set(colour, drawn(colour));
  return known.get(colour);
};
const drawn = (colour) => {
  const canvas = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true });
  canvas.fillStyle = colour;
  canvas.fillRect(0, 0, 1, 1);
  const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
  return [r, g, b, a / 255];
};
// As WCAG 2 counts it.
window.$luminance = (colour) => {
  const [r, g, b] = (Array.isArray(colour) ? colour : $rgb(colour)).map((one) => one / 255)
    .map((one) => (one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
// What is behind an element: its background, over its parent's, and so on.
window.$behind = (element) => {
  const layers = [];
  for (let each = element; each; each = each.parentElement) layers.push($rgb(getComputedStyle(each).backgroundColor));
  let below = [255, 255, 255];
  for (const [r, g, b, a] of layers.reverse()) below = [r, g, b].map((one, at) => one * a + below[at] * (1 - a));
  return below;
};
// Texts with less contrast than 4.5 to 1. What cannot be used need not be read.
window.$faint = () => {
  const found = new Set();
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const element = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || !element.checkVisibility() || element.closest(':disabled, .hidden, .skip, svg')) continue;
    const [text, behind] = [$luminance(getComputedStyle(element).color), $luminance($behind(element))];
    const contrast = (Math.max(text, behind) + 0.05) / (Math.min(text, behind) + 0.05);
    if (contrast < 4.5) found.add(`${element.className || element.tagName}: ${walk.currentNode.data.trim().slice(0, 20)} ${contrast.toFixed(2)}`);
  }
  return [...found];
};
// Things to use that have no name.
window.$nameless = () => [...document.querySelectorAll('a, button, input, select, textarea, dialog, [role=img]')]
  .filter((each) => each.checkVisibility() && !(each.getAttribute('aria-label') || each.innerText?.trim() || each.labels?.length ||
    document.getElementById(each.getAttribute('aria-labelledby'))))
  .map((each) => each.outerHTML.slice(0, 80));
// Buttons and fields that are lower than WCAG 2.2 asks, but for boxes and links in a text.
window.$small = () => [...document.querySelectorAll('button, select, input:not([type=checkbox]), summary')]
  .filter((each) => each.checkVisibility() && each.getBoundingClientRect().height < 20)
  .map((each) => each.outerHTML.slice(0, 80));
// From now on the API's stats say this as well.
window.$stats = (more) => {
  const ask = window.fetch;
  window.fetch = async (url, ...rest) => {
    const response = await ask(url, ...rest);
    if (!String(url).endsWith('/stats')) return response;
    return new Response(JSON.stringify({ ...(await response.json()), ...more }), response);
  };
};
// From now on the API tells of an hour of work.
window.$hour = () => {
  const wave = (at, most) => Math.max(0, Math.round(most * (0.55 + 0.3 * Math.sin(at / 6) + 0.15 * Math.sin(at * 2.3))));
  const minutes = [...Array(60).keys()];
  $stats({
    minutes: {
      accepted: minutes.map((at) => wave(at, 46)),
      succeeded: minutes.map((at) => wave(at - 1, 42)),
      failed: minutes.map((at) => (at % 17 === 9 ? 6 : at % 5 === 0 ? 1 : 0)),
    },
  });
};
"#;

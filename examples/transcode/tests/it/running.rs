//! Starts and calls the program, as an operator and a caller would.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, Command, ExitStatus, Stdio},
    time::Instant,
};

use serde_json::Value;

use crate::place::{DEADLINE, Place};

/// The request of the original article.
pub(crate) const SEED: &str = r#"{"bucket":"my-bucket","object":"480P.mp4","output_dir":"a","dst_format":"mov"}"#;

pub(crate) struct App {
    child: Child,
    address: String,
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) json: Value,
}

impl App {
    pub(crate) fn start(place: &Place, settings: &[(&str, &str)]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_transcode"))
            .env("LISTEN", "127.0.0.1:0")
            .env("BUCKETS", place.path_of("..").canonicalize().unwrap())
            .env("STORE", format!("redb:{}", place.task_file().display()))
            .env("WORK_DIR", place.work_dir())
            .envs(settings.iter().copied())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        let address = line.trim().strip_prefix("listening on http://").unwrap().to_owned();
        Self { child, address }
    }

    /// The asynchronous call of the article.
    pub(crate) fn call(&self, body: &str) -> Answer {
        self.send("POST", "/", "X-Fc-Invocation-Type: Async\r\n", body)
    }

    /// The same. Answers with the task id only.
    pub(crate) fn accepted(&self, body: &str) -> String {
        let accepted = self.call(body);
        assert_eq!(accepted.status, 202);
        accepted.json["taskId"].as_str().unwrap().to_owned()
    }

    /// The task document, once it meets the condition.
    pub(crate) fn task_when(&self, id: &str, mut holds: impl FnMut(&Value) -> bool) -> Value {
        let mut task = Value::Null;
        eventually("the task gets there", || {
            task = self.send("GET", &format!("/tasks/{id}"), "", "").json;
            holds(&task)
        });
        task
    }

    pub(crate) fn begin(&self, method: &str, path: &str, headers: &str, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n{headers}\r\n{body}",
            self.address
        );
        stream.write_all(request.as_bytes()).unwrap();
        stream
    }

    pub(crate) fn send(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        let mut answer = String::new();
        self.begin(method, path, headers, body)
            .read_to_string(&mut answer)
            .unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let json = serde_json::from_str(body).unwrap_or_else(|_| panic!("every answer is JSON: {answer}"));
        Answer { status, json }
    }

    /// Sends SIGTERM, as a service manager does.
    pub(crate) fn tell_to_end(&self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    pub(crate) fn end(&mut self) -> ExitStatus {
        self.tell_to_end();
        let mut ended = None;
        eventually("the app ends", || {
            ended = self.child.try_wait().unwrap();
            ended.is_some()
        });
        ended.unwrap()
    }
}

/// As `kill -9`.
impl Drop for App {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn has_ended(task: &Value) -> bool {
    ["Succeeded", "Failed", "Stopped"]
        .iter()
        .any(|end| task["status"] == *end)
}

pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

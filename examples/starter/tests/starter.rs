//! Starts the application, sends requests, kills it and starts it again.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
};

struct App {
    process: Child,
    url: String,
    /// Kept open to the end of the process, which would otherwise fail when it prints.
    _output: BufReader<ChildStdout>,
}

impl App {
    fn start(tasks: &Path) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_starter"))
            .env("LISTEN", "127.0.0.1:0")
            .env("TASKS_FILE", tasks)
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut output = BufReader::new(process.stdout.take().expect("it has an output"));
        let mut line = String::new();
        output.read_line(&mut line).expect("it says where it listens");
        let url = line.replace("listening on ", "").trim().to_owned();
        Self {
            process,
            url,
            _output: output,
        }
    }

    /// Sends a request with curl, as in the README. Answers with the head and the body.
    fn ask(&self, path: &str, arguments: &[&str]) -> String {
        let mut curl = Command::new("curl");
        let answer = curl
            .args(["-s", "-i"])
            .arg(format!("{}{path}", self.url))
            .args(arguments);
        let answer = answer.output().expect("curl is there").stdout;
        String::from_utf8(answer).expect("it is text")
    }
}

impl Drop for App {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn an_accepted_report_is_made_although_the_process_is_killed() {
    let tasks: PathBuf = env::temp_dir().join(format!("starter-{}.redb", std::process::id()));
    let mut app = App::start(&tasks);
    let accepted = app.ask("/report/may", &["-X", "POST", "-H", "Prefer: respond-async"]);
    assert!(accepted.starts_with("HTTP/1.1 202"), "{accepted}");
    let location = accepted.lines().find_map(|line| line.strip_prefix("location: "));
    let result = format!("{}?wait=60", location.expect("it says where the result is").trim());
    app.process.kill().expect("it can be killed");
    let _ = app.process.wait();

    let mut app = App::start(&tasks);
    let result = app.ask(&result, &[]);
    assert!(result.ends_with("the report of may\n"), "{result}");
    assert!(app.ask("/console/", &[]).starts_with("HTTP/1.1 200"));
    let told = Command::new("kill").arg(app.process.id().to_string()).status();
    assert!(told.expect("kill is there").success());
    assert!(app.process.wait().expect("it ends").success(), "it ends in good order");
    let _ = fs::remove_file(tasks);
}

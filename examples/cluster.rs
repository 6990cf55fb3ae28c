//! Three processes on one PostgreSQL behind a round robin. Kill one with `kill -9`, and its tasks end elsewhere.
//!
//! ```text
//! cargo run --release --example cluster --features full
//! cargo run --release --example cluster --features full -- --once
//! ```
//!
//! The first command prints lines to paste, and ends with Ctrl-C. The second runs the demonstration by itself, and
//! exits with 0 if it succeeded. Either starts its own PostgreSQL and removes it; with `DATABASE_URL` set, it uses that
//! server. `LISTEN` is the address of the front: by default `127.0.0.1:3000`, or any free port with `--once`.

use std::{
    env,
    io::{self, Read},
    net::{self, SocketAddr},
    path::PathBuf,
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use axum::{Router, body::Body, extract::Path, http::Request, routing::post};
use http_body_util::BodyExt;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader, copy_bidirectional},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    signal,
    time::{sleep, timeout},
};
use tower::{Layer, make::Shared};
use tower_respond_async::{BoxError, Console, RespondAsyncLayer, TaskApi, TaskContext, allow_everyone};
use tower_respond_async_postgres::PostgresStore;

const NAMES: [&str; 3] = ["anna", "ben", "cleo"];

/// Short, so that you do not wait long; the default is 30 s.
const LEASE: Duration = Duration::from_secs(3);

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["process", name] => process(name, &env::var("DATABASE_URL")?).await,
        [] => cluster(false).await,
        ["--once"] => cluster(true).await,
        _ => Err("it takes --once, or nothing".into()),
    }
}

/// One of the processes, which are all alike. It ends when its parent closes its input.
async fn process(name: &str, url: &str) -> Result<(), BoxError> {
    let store = PostgresStore::connect(url).await?;
    let layer = RespondAsyncLayer::builder(store)
        .worker_name(name)
        .lease(LEASE)
        .never_async("/console")
        .build()?;
    let tasks = layer.tasks();
    let app = Router::new()
        .route("/sleep/{seconds}", post(sleeps))
        .nest_service("/tasks", TaskApi::new(&tasks, allow_everyone()))
        .nest_service("/console", Console::new(&tasks));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    let closed = tokio::task::spawn_blocking(|| io::stdin().read(&mut [0]));
    tokio::select! {
        served = axum::serve(listener, Shared::new(layer.layer(app))).into_future() => served?,
        _ = closed => {}
    }
    tasks.shutdown(Duration::from_secs(1)).await;
    Ok(())
}

async fn sleeps(task: TaskContext, Path(seconds): Path<u32>) -> String {
    for second in 1..=seconds {
        sleep(Duration::from_secs(1)).await;
        task.progress(second as f32 / seconds as f32, format!("{second} of {seconds}"));
    }
    format!("slept {seconds} s in process {}\n", std::process::id())
}

async fn cluster(once: bool) -> Result<(), BoxError> {
    let (url, server) = match env::var("DATABASE_URL") {
        Ok(url) => (url, None),
        Err(_) => private_postgres().await.map(|(url, server)| (url, Some(server)))?,
    };
    let mut processes = Vec::new();
    for name in NAMES {
        processes.push(start(name, &url).await?);
    }
    let addresses: Arc<[SocketAddr]> = processes.iter().map(|(_, address)| *address).collect();
    let listen = env::var("LISTEN").unwrap_or_else(|_| format!("127.0.0.1:{}", if once { 0 } else { 3000 }));
    let front = TcpListener::bind(&listen)
        .await
        .map_err(|error| format!("LISTEN is {listen}: {error}"))?;
    let base = format!("http://{}", front.local_addr()?);
    tokio::spawn(round_robin(front, addresses));
    for (name, (child, address)) in NAMES.iter().zip(&processes) {
        println!(
            "{name} is process {} at http://{address}",
            child.id().unwrap_or_default()
        );
    }
    println!("in front of them, in turn: {base}\n");
    let shown = match once {
        true => show(&base, &mut processes).await,
        false => {
            lines(&base, &processes);
            signal::ctrl_c().await.map_err(Into::into)
        }
    };
    // First all processes at once, then the server.
    let closed: Vec<_> = processes.iter_mut().map(|(child, _)| child.stdin.take()).collect();
    drop(closed);
    for mut child in processes.into_iter().map(|(child, _)| child).chain(server) {
        drop(child.stdin.take());
        child.wait().await?;
    }
    shown
}

/// Starts this program again, as one of the processes.
async fn start(name: &str, url: &str) -> Result<(Child, SocketAddr), BoxError> {
    let mut child = Command::new(env::current_exe()?)
        .args(["process", name])
        .env("DATABASE_URL", url)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .process_group(0) // Ctrl-C is for the parent only
        .kill_on_drop(true)
        .spawn()?;
    let said = first_line(&mut child).await?;
    Ok((child, said.ok_or(format!("{name} did not start"))?.parse()?))
}

async fn first_line(child: &mut Child) -> Result<Option<String>, BoxError> {
    let output = child.stdout.take().ok_or("it has no output")?;
    Ok(BufReader::new(output).lines().next_line().await?)
}

/// Leads each connection to the next process that accepts it.
async fn round_robin(front: TcpListener, addresses: Arc<[SocketAddr]>) {
    let mut turn = 0;
    while let Ok((mut client, _)) = front.accept().await {
        turn += 1;
        let addresses = addresses.clone();
        tokio::spawn(async move {
            for address in addresses
                .iter()
                .cycle()
                .skip(turn % addresses.len())
                .take(addresses.len())
            {
                if let Ok(mut process) = TcpStream::connect(address).await {
                    return copy_bidirectional(&mut client, &mut process).await.is_ok();
                }
            }
            false
        });
    }
}

fn lines(base: &str, processes: &[(Child, SocketAddr)]) {
    let pids: Vec<_> = processes.iter().filter_map(|(child, _)| child.id()).collect();
    println!(
        "# Each line may be answered by another process.\n\
         ID=$(curl -sX POST -H 'X-Fc-Invocation-Type: Async' {base}/sleep/30 | sed 's/.*\"requestId\":\"\\([^\"]*\\).*/\\1/')\n\
         curl {base}/tasks/$ID                     # who runs it: instanceId\n\
         curl \"{base}/tasks/$ID/result?wait=5\"     # waits for it\n\
         curl -N {base}/tasks/$ID/events           # watches it\n\
         kill -9 {}                             # one of {pids:?}: its tasks run elsewhere within {LEASE:?}\n\
         curl -X PUT {base}/tasks/$ID/stop         # wherever it runs\n\
         # {base}/console shows all of it. Ctrl-C ends it.",
        pids[0]
    );
}

/// Starts six tasks, and kills a process.
async fn show(base: &str, processes: &mut [(Child, SocketAddr)]) -> Result<(), BoxError> {
    let mut tasks = Vec::new();
    for _ in 0..6 {
        let accepted = ask("POST", &format!("{base}/sleep/8")).await?;
        let id = accepted["requestId"]
            .as_str()
            .ok_or(format!("it was not accepted: {accepted}"))?;
        tasks.push(format!("{base}/tasks/{id}"));
    }
    let mut began = Vec::new();
    for (number, task) in tasks.iter().enumerate() {
        let name = worker(&until(task, "Running").await?);
        println!("task {number} runs in {name}");
        began.push(name);
    }
    let victim = NAMES
        .iter()
        .position(|name| *name == began[0])
        .ok_or("nobody is called so")?;
    println!("\nkill -9 {}\n", processes[victim].0.id().unwrap_or_default());
    processes[victim].0.kill().await?;
    for (number, (task, before)) in tasks.iter().zip(&began).enumerate() {
        let ended = until(task, "Succeeded").await?;
        let (name, attempt) = (worker(&ended), &ended["attempt"]);
        println!("task {number} began in {before}, and ended in {name} with attempt {attempt}");
        let was_killed = *before == began[0];
        let rightly = if was_killed {
            name != *before && *attempt == 2
        } else {
            name == *before && *attempt == 1
        };
        if !rightly {
            return Err(format!("that is not as it should be: {ended}").into());
        }
    }
    println!("\nall {} have ended", tasks.len());
    Ok(())
}

fn worker(task: &Value) -> String {
    let instance = task["instanceId"].as_str().unwrap_or_default();
    instance.split('-').next().unwrap_or_default().to_owned()
}

/// Waits until the task is in this state, and answers with its document.
async fn until(task: &str, status: &str) -> Result<Value, BoxError> {
    let waiting = async {
        loop {
            match ask("GET", task).await {
                Ok(document) if document["status"] == status => return document,
                _ => sleep(Duration::from_millis(50)).await,
            }
        }
    };
    let waited = timeout(Duration::from_secs(120), waiting).await;
    waited.map_err(|_| format!("{task} did not get to be {status}").into())
}

/// Uses a new connection, so that any process may answer.
async fn ask(method: &str, url: &str) -> Result<Value, BoxError> {
    let client: Client<HttpConnector, Body> = Client::builder(TokioExecutor::new())
        .pool_max_idle_per_host(0)
        .build_http();
    let request = Request::builder()
        .method(method)
        .uri(url)
        .header("X-Fc-Invocation-Type", "Async");
    let answer = client.request(request.body(Body::empty())?).await?;
    Ok(serde_json::from_slice(&answer.into_body().collect().await?.to_bytes())?)
}

/// A server on a free port of this machine, in a folder that is removed with it. It ends when its input is closed, and
/// so with its parent, however that ends. It refuses to run as root; as root, the script changes to the user
/// `postgres`.
const SERVER: &str = r#"
[ "$(id -u)" != 0 ] || exec setpriv --reuid=postgres --regid=postgres --clear-groups sh -c "$0" "$0" "$@"
set -e
cd /
folder=$(mktemp -d "${TMPDIR:-/tmp}/cluster.XXXXXX")
trap 'code=$?; [ $code = 0 ] || cat "$folder/log" >&2; rm -rf "$folder"' EXIT
"$1/initdb" --no-sync --auth=trust --username=postgres --encoding=UTF8 -D "$folder/data" >"$folder/log" 2>&1
"$1/postgres" -D "$folder/data" -h 127.0.0.1 -p "$2" -k "$folder" >>"$folder/log" 2>&1 &
until "$1/pg_isready" -q -h 127.0.0.1 -p "$2"; do kill -0 $!; sleep 0.1; done
echo ready
cat >/dev/null
kill -INT $!
wait
"#;

/// Starts the server. Answers with its URL, and the child that keeps it up.
async fn private_postgres() -> Result<(String, Child), BoxError> {
    let path = env::var_os("PATH").unwrap_or_default();
    let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut folders = env::split_paths(&path).chain(debian.map(|version| version.path().join("bin")));
    let is_whole = |folder: &PathBuf| {
        ["initdb", "postgres", "pg_isready"]
            .iter()
            .all(|it| folder.join(it).exists())
    };
    let Some(folder) = folders.find(is_whole) else {
        return Err(
            "there is no PostgreSQL here: apt-get install postgresql, or set DATABASE_URL to that of a server".into(),
        );
    };
    let port = net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let mut server = Command::new("sh")
        .args(["-c", SERVER, SERVER])
        .arg(folder)
        .arg(port.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()?;
    match first_line(&mut server).await? {
        Some(_) => Ok((format!("postgres://postgres@127.0.0.1:{port}/postgres"), server)),
        None => Err("the PostgreSQL of this example did not start".into()),
    }
}

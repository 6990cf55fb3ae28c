//! Clients during a restart of the server. They do not wait for each other's answers: the number of requests per second
//! is fixed.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use servers::{Postgres, Stop};
use tokio::{
    runtime::Runtime,
    task::{JoinSet, spawn_blocking},
    time::sleep_until,
};
use tower::{Layer, ServiceExt, service_fn};
use tower_respond_async::{BoxError, RequestBody};
use tower_respond_async_postgres::PostgresStore;

use crate::{
    ours::layer,
    support::{when_measuring, work::PAYLOAD},
    turn::share,
};

const A_SECOND: u32 = 500;
const PROCESSES: usize = 3;

/// The window over which the rate of answers is taken.
const WINDOW: Duration = Duration::from_millis(200);

pub(crate) fn run(runtime: &Runtime) {
    let (before, down, in_all) = when_measuring((3.0, 3.0, 10.0), (0.2, 0.1, 1.0));
    let [before, down, in_all] = [before, down, in_all].map(Duration::from_secs_f64);
    let server = std::sync::Arc::new(Postgres::start(""));
    runtime.block_on(async {
        let mut services = Vec::new();
        for _ in 0..PROCESSES {
            let store = PostgresStore::connect(&server.url()).await.expect("the server answers");
            services.push(layer(store, 64).layer(service_fn(|_: Request<RequestBody>| {
                std::future::ready(Ok::<_, BoxError>(Response::new(Full::<Bytes>::default())))
            })));
        }
        let began = Instant::now();
        let restarting = spawn_blocking(move || {
            std::thread::sleep(before);
            server.stop(Stop::Kill);
            std::thread::sleep(down);
            server.restart();
            (server, began.elapsed())
        });
        let mut asked = JoinSet::new();
        for number in 0.. {
            let at = Duration::from_secs(1) * number / A_SECOND;
            if at >= in_all {
                break;
            }
            sleep_until((began + at).into()).await;
            let service = services[number as usize % PROCESSES].clone();
            asked.spawn(async move {
                let request = Request::post("/").header("prefer", "respond-async");
                let request = request
                    .body(RequestBody::from(Bytes::from(vec![b'x'; PAYLOAD])))
                    .expect("it is a request");
                let answer = service.oneshot(request).await.expect("it answers");
                (answer.status(), began + at, Instant::now())
            });
        }
        let (_server, back) = restarting.await.expect("it is restarted");
        let answers = asked.join_all().await;
        let count = |status| answers.iter().filter(|(of, ..)| *of == status).count();
        let (accepted, refused) = (count(StatusCode::ACCEPTED), count(StatusCode::SERVICE_UNAVAILABLE));
        assert_eq!(accepted + refused, answers.len(), "there are other answers");
        let accepted_at: Vec<Duration> = answers
            .iter()
            .filter(|(status, ..)| *status == StatusCode::ACCEPTED)
            .map(|(.., at)| at.duration_since(began))
            .collect();
        let enough = A_SECOND as f64 * WINDOW.as_secs_f64() * 0.9;
        let is_enough = |from: &Duration| {
            let within = accepted_at.iter().filter(|at| **at >= *from && **at < *from + WINDOW);
            within.count() as f64 >= enough
        };
        // From which moment on the rate stays high, as long as requests are sent.
        let windows = (0..).map(|number| back + WINDOW * number);
        let windows: Vec<Duration> = windows.take_while(|from| *from + WINDOW <= in_all).collect();
        let poor = windows.iter().rposition(|from| !is_enough(from));
        let again = windows.get(poor.map_or(0, |poor| poor + 1));
        let mut later: Vec<f64> = answers
            .iter()
            .filter(|(_, asked, _)| *asked >= began + back)
            .map(|(_, asked, answered)| answered.duration_since(*asked).as_secs_f64() * 1e3)
            .collect();
        println!(
            "\n{A_SECOND} requests a second, the server away for {:.1} s\n\
            503                                          {:>14.2} %\n\
            at 90 % again, after the server is back      {:>14}\n\
            a 202 from then on, median and 99th          {:>14.1}{:>14.1} ms",
            (back - before).as_secs_f64(),
            refused as f64 * 100.0 / answers.len() as f64,
            again.map_or("never".to_owned(), |again| format!(
                "{:.1} s",
                (*again - back).as_secs_f64()
            )),
            share(&mut later, 50),
            share(&mut later, 99),
        );
    });
}

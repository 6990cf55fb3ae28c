//! The handlers: they succeed, fail, hang, answer "not now", or crash their process.

use std::{collections::BTreeSet, convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header::RETRY_AFTER};
use http_body_util::{BodyExt, Collected, Full};
use tokio::time::sleep;
use tower_respond_async::{RequestBody, TaskContext};

use super::{
    standing::{Fate, Handler, Work},
    world::{Shared, World},
};

/// The header with the number of the order.
pub(super) const ORDER: &str = "x-order";

/// What a handler will do.
#[derive(Clone, Copy)]
struct Plan {
    /// `None`: it never ends by itself.
    long: Option<Duration>,
    ends: Ends,
    obeys: bool,
    reports: Option<f32>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ends {
    Well,
    Badly,
    NotNow(u64),
    /// Crashes its process.
    Deadly,
}

/// A running handler. Dropping it ends it.
struct AtWork {
    shared: Shared,
    work: Work,
}

impl Drop for AtWork {
    fn drop(&mut self) {
        self.shared.lock().handlers.remove(&self.work);
    }
}

/// Handles a request on a process.
pub(super) async fn handle(
    shared: Shared,
    process: u32,
    request: Request<RequestBody>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let context = TaskContext::of(request.extensions());
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(Collected::to_bytes).unwrap_or_default();
    let (Some(id), Some(token)) = (context.request_id(), context.fence_token()) else {
        return Ok(answer(StatusCode::OK));
    };
    let work = (process, id, token.get());
    let plan = shared
        .enter(process)
        .begin(work, context.attempt(), &head.headers, &body);
    let at_work = AtWork {
        shared: shared.clone(),
        work,
    };
    if let Some(fraction) = plan.reports {
        context.progress(fraction, "simulated");
    }
    let ends_at = async {
        match plan.long {
            Some(long) => sleep(long).await,
            None => std::future::pending().await,
        }
    };
    let obeys = tokio::select! {
        biased;
        () = context.stopped(), if plan.obeys => true,
        () = ends_at => false,
    };
    if plan.ends == Ends::Deadly && !obeys {
        shared.enter(process).killed(work);
        std::future::pending::<()>().await;
    }
    let mut world = shared.enter(process);
    let fate = match plan.ends {
        Ends::NotNow(_) if !obeys => Fate::Deferred,
        _ => Fate::Ended,
    };
    world.ended_work(work, fate);
    drop(world);
    drop(at_work);
    Ok(match plan.ends {
        Ends::Well if !obeys => answer(StatusCode::OK),
        Ends::NotNow(after) if !obeys => {
            let mut answer = answer(StatusCode::SERVICE_UNAVAILABLE);
            answer.headers_mut().insert(RETRY_AFTER, after.into());
            answer
        }
        _ => answer(StatusCode::INTERNAL_SERVER_ERROR),
    })
}

fn answer(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from("simulated"));
    *response.status_mut() = status;
    response
}

impl World {
    /// An attempt begins on a process. Checks what the process was given of the task.
    fn begin(&mut self, work: Work, attempt: u32, headers: &HeaderMap, body: &Bytes) -> Plan {
        let (process, id, token) = work;
        self.note(format_args!(
            "{id} runs on process {process}, attempt {attempt} under {token}"
        ));
        let begun = self.now;
        match self.processes.get_mut(&process).and_then(|it| it.claim((id, token))) {
            Some(held) => {
                held.take();
                held.fate = Fate::Begun;
            }
            None => self.fail(
                3,
                format_args!("{id} is begun by process {process}, which does not hold it"),
            ),
        }
        let stop_by = None;
        let first = self.handlers.insert(work, Handler { begun, stop_by }).is_none();
        self.check(3, first, format_args!("{id} is begun twice under one claim"));
        let number = headers
            .get(ORDER)
            .and_then(|number| number.to_str().ok()?.parse::<usize>().ok());
        if let Some(known) = self.known.get(&id) {
            let is_latest = known.claimed.2 == token;
            let as_told = !is_latest || known.claimed.1 == attempt;
            let as_sent = !is_latest || (known.order == number && known.request.body == *body);
            self.check(5, as_told, format_args!("{id} was begun as attempt {attempt}"));
            self.check(9, as_sent, format_args!("{id} was begun with another request"));
        }
        let deadly = number.is_some_and(|number| self.orders[number].deadly);
        let random = &mut self.random;
        let hangs = self.faults_on && random.u32(0..12) == 0;
        let long = Duration::from_millis(random.u64(1..60_000));
        Plan {
            long: (!hangs || deadly).then_some(long),
            ends: match random.u32(0..8) {
                _ if deadly => Ends::Deadly,
                0 | 1 => Ends::Badly,
                2 => Ends::NotNow(random.u64(0..8)),
                _ => Ends::Well,
            },
            obeys: random.bool(),
            reports: (random.u32(0..4) == 0).then(|| random.f32()),
        }
    }

    fn ended_work(&mut self, (process, id, token): Work, fate: Fate) {
        if let Some(held) = self.processes.get_mut(&process).and_then(|it| it.claim((id, token))) {
            held.fate = fate;
        }
    }

    /// A handler crashes its process.
    fn killed(&mut self, (process, id, _): Work) {
        self.note(format_args!("{id} takes process {process} down"));
        self.report.kills += 1;
        if let Some(standing) = self.processes.get_mut(&process) {
            standing.kill();
        }
    }

    /// Checks that no two handlers work on one task. Handlers of frozen processes do nothing, and do not count.
    pub(super) fn check_handlers(&mut self) {
        if self.now < self.leapt_until {
            // The store's clock leapt, so a lease may have ended that its holder counts as good. Tokens keep the two
            // apart.
            return;
        }
        let mut at_work = BTreeSet::new();
        let works = self.handlers.keys().filter(|(process, ..)| self.is_awake(*process));
        let twice = works.map(|(_, id, _)| *id).find(|id| !at_work.insert(*id));
        if let Some(id) = twice {
            self.fail(3, format_args!("two handlers work on {id}"));
        }
    }
}

//! The clients. They order tasks with a key, a name or neither, send again what was not answered, stop tasks and run
//! them again.

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri};
use http_body::{Body, Frame};
use tokio::time::{Sleep, sleep, timeout};
use tower::ServiceExt;
use tower_respond_async::{
    RequestId, Scope, Submission, SubmitError, Submitted, TaskName, Tenant,
    store::StoreErrorKind,
    task::{
        CapturedRequest, Destination, IdempotencyKey,
        lifecycle::{Edits, Rerun, Stop},
    },
};

use super::{
    ends::TOLD,
    handler::ORDER,
    process::{Process, TENANT},
    world::{STORE_TIMEOUT, Shared, World},
};

/// How often an order is sent at most.
const TRIES: u32 = 4;

/// An order of a client. It must be done once, however often it is sent.
#[derive(Debug)]
pub(super) struct Order {
    number: usize,
    kind: Kind,
    pub(super) tenant: Option<Tenant>,
    body: Bytes,
    /// In seconds.
    delay: u64,
    pub(super) deadly: bool,
    /// The task that it became.
    pub(super) task: Option<RequestId>,
    tries: u32,
    again_at: Option<Duration>,
}

/// What identifies an order, so that it can be sent twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Nothing,
    Key,
    Name,
}

impl Order {
    fn key(&self) -> String {
        format!("order-{}", self.number)
    }

    /// The request that the application must receive.
    fn seen(&self) -> (Uri, HeaderMap) {
        let mut headers = HeaderMap::new();
        headers.insert(ORDER, self.number.into());
        if let Some(tenant) = &self.tenant {
            let tenant = HeaderValue::from_str(tenant.as_str());
            headers.insert(TENANT, tenant.expect("tenants of a simulation are words"));
        }
        (Uri::from_static("/simulated?a=b"), headers)
    }

    fn request(&self, body: Sent) -> Request<Sent> {
        let (uri, headers) = self.seen();
        let mut request = Request::post(uri).header("x-fc-invocation-type", "Async");
        match self.kind {
            Kind::Nothing => {}
            Kind::Key => request = request.header("idempotency-key", self.key()),
            Kind::Name => request = request.header("x-fc-async-task-id", self.key()),
        }
        if self.delay > 0 {
            request = request.header("x-fc-async-delay", self.delay);
        }
        let mut request = request.body(body).expect("all of its parts are sound");
        request.headers_mut().extend(headers);
        request
    }

    fn submission(&self) -> Submission {
        let (uri, headers) = self.seen();
        let mut request = Request::post(uri)
            .body(self.body.clone())
            .expect("all of its parts are sound");
        *request.headers_mut() = headers;
        let mut submission = Submission::new(request);
        submission.key = (self.kind == Kind::Key)
            .then(|| IdempotencyKey::new(&self.key()).ok())
            .flatten();
        submission.name = (self.kind == Kind::Name)
            .then(|| TaskName::new(&self.key()).ok())
            .flatten();
        submission.tenant.clone_from(&self.tenant);
        submission.delay = Duration::from_secs(self.delay);
        submission
    }

    /// Whether the request is this order, without the headers that asked for async.
    pub(super) fn is_in(&self, request: &CapturedRequest) -> bool {
        let (uri, headers) = self.seen();
        let mut kept = request.headers.clone();
        kept.remove("idempotency-key");
        request.uri == uri && kept == headers && request.body == self.body && request.method == http::Method::POST
    }

    /// A key is kept when its task is gone; a name is not.
    pub(super) fn is_known_for_ever(&self) -> bool {
        self.kind != Kind::Name
    }
}

/// A body that arrives in pieces.
#[derive(Debug)]
pub(super) struct Sent {
    pieces: VecDeque<Bytes>,
    pause: Duration,
    waits: Option<Pin<Box<Sleep>>>,
}

impl Body for Sent {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let pause = self.pause;
        if !pause.is_zero() {
            let waits = self.waits.get_or_insert_with(|| Box::pin(sleep(pause)));
            std::task::ready!(waits.as_mut().poll(cx));
            self.waits = None;
        }
        Poll::Ready(self.pieces.pop_front().map(|piece| Ok(Frame::data(piece))))
    }
}

/// An action of a client.
pub(super) enum Wish {
    Order,
    Stop,
    Rerun,
    Redeliver,
    Delete,
    Wait,
}

impl World {
    /// The action of the next client.
    pub(super) fn wish(&mut self) -> Wish {
        match self.random.u32(0..44) {
            0..=22 => Wish::Order,
            23..=30 => Wish::Stop,
            31..=35 => Wish::Rerun,
            36 | 37 => Wish::Redeliver,
            38 | 39 => Wish::Delete,
            _ => Wish::Wait,
        }
    }

    /// Orders without an answer that are due to be sent again.
    pub(super) fn to_send_again(&self) -> Vec<usize> {
        let due = |order: &&Order| order.again_at.is_some_and(|at| at <= self.now);
        self.orders.iter().filter(due).map(|order| order.number).collect()
    }

    pub(super) fn all_is_answered(&self) -> bool {
        self.orders.iter().all(|order| order.again_at.is_none())
    }

    /// One new order, or several at once.
    pub(super) fn new_orders(&mut self) -> Vec<usize> {
        let count = match self.random.u32(0..8) {
            0 => self.random.usize(2..=4),
            _ => 1,
        };
        (0..count).map(|_| self.new_order()).collect()
    }

    fn new_order(&mut self) -> usize {
        let number = self.orders.len();
        let random = &mut self.random;
        self.orders.push(Order {
            number,
            kind: [Kind::Nothing, Kind::Key, Kind::Key, Kind::Name][random.usize(0..4)],
            tenant: random.bool().then(|| Tenant::new(["one", "two"][random.usize(0..2)])),
            body: vec![random.u8(..); random.usize(0..400)].into(),
            delay: match random.u32(0..5) {
                0 => random.u64(1..30),
                _ => 0,
            },
            deadly: random.u32(0..30) == 0,
            task: None,
            tries: 0,
            again_at: None,
        });
        number
    }

    /// Some known task, and its tenant.
    fn any_task(&mut self) -> Option<(RequestId, Option<Tenant>)> {
        let count = self.known.len();
        let id = (count > 0).then(|| self.known.keys().nth(self.random.usize(0..count)).copied())??;
        Some((id, self.known.get(&id)?.tenant.clone()))
    }

    /// Records that an order is sent. Answers with its body, which may arrive slowly.
    fn sends(&mut self, number: usize, process: u32) -> Sent {
        let now = self.now;
        let pause = Duration::from_millis(self.random.u64(10..10_000));
        let slow = self.random.u32(0..4) == 0;
        let between = Duration::from_millis(self.random.u64(1..3_000));
        let order = &mut self.orders[number];
        order.tries += 1;
        // Without a key or a name it is not safe to send it twice.
        let again = order.kind != Kind::Nothing && order.tries < TRIES;
        order.again_at = again.then(|| now + STORE_TIMEOUT + pause);
        let (first, second) = order.body.split_at(order.body.len() / 2);
        let (first, second) = (order.body.slice_ref(first), order.body.slice_ref(second));
        let tries = order.tries;
        self.report.sent_again += u64::from(tries > 1);
        self.note(format_args!("order {number} is sent to process {process}, try {tries}"));
        Sent {
            pieces: [first, second].into(),
            pause: if slow { between } else { Duration::ZERO },
            waits: None,
        }
    }

    /// These orders cannot be sent: no process serves.
    pub(super) fn nobody_answers(&mut self, orders: &[usize]) {
        for number in orders {
            let order = &mut self.orders[*number];
            order.tries += 1;
            let again = order.kind != Kind::Nothing && order.tries < TRIES;
            order.again_at = again.then(|| self.now + STORE_TIMEOUT);
        }
    }

    /// Handles the answer to an order.
    fn answered(&mut self, number: usize, answer: Answer) {
        match answer {
            Answer::Accepted(id) => {
                self.orders[number].again_at = None;
                self.note(format_args!("order {number} has its 202 for {id}"));
                let is_its = self.orders[number].task == Some(id);
                let Some(known) = self.known.get_mut(&id) else {
                    self.fail(
                        1,
                        format_args!("order {number} has its 202 for {id}, which was never stored"),
                    );
                    return;
                };
                self.report.tasks += u64::from(!known.accepted);
                known.accepted = true;
                self.check(13, is_its, format_args!("the key of order {number} is known as {id}"));
            }
            Answer::Gone => {
                let order = &mut self.orders[number];
                order.again_at = None;
                let gone = order.task.and_then(|id| self.known.get(&id)?.gone);
                self.check(
                    13,
                    gone.is_some(),
                    format_args!("order {number} is told that its task is gone"),
                );
            }
            Answer::Later => {
                let pause = Duration::from_millis(self.random.u64(10..5_000));
                let now = self.now;
                let order = &mut self.orders[number];
                order.again_at = order.again_at.map(|_| now + pause);
            }
            Answer::Refused(why) => self.fail(13, format_args!("order {number} is refused: {why}")),
        }
    }
}

/// What an answer means for its client.
enum Answer {
    Accepted(RequestId),
    /// Its task is gone.
    Gone,
    /// There is no answer, or the client must ask again.
    Later,
    Refused(String),
}

impl Answer {
    fn of(response: &Response<()>) -> Self {
        let id = response.headers().get("x-fc-request-id");
        let id = id.and_then(|id| id.to_str().ok()?.parse().ok());
        match (response.status(), id) {
            (StatusCode::ACCEPTED, Some(id)) => Self::Accepted(id),
            (StatusCode::GONE, _) => Self::Gone,
            (StatusCode::SERVICE_UNAVAILABLE | StatusCode::REQUEST_TIMEOUT, _) => Self::Later,
            (status, _) => Self::Refused(status.to_string()),
        }
    }

    fn of_submitted(submitted: &Result<Submitted, SubmitError>) -> Self {
        match submitted {
            Ok(Submitted::New(record)) => Self::Accepted(record.id),
            Ok(Submitted::Known { task: None, .. }) => Self::Gone,
            Ok(Submitted::Known { id, same_request, .. }) => match same_request {
                true => Self::Accepted(*id),
                false => Self::Refused("another request".into()),
            },
            Err(SubmitError::ShuttingDown | SubmitError::Store(_)) => Self::Later,
            Err(error) => Self::Refused(error.to_string()),
        }
    }
}

/// Sends orders to a process: one over HTTP, several at once by `Tasks::submit_all`.
pub(super) fn send(shared: &Shared, process: &Process, numbers: Vec<usize>) {
    let (shared, number) = (shared.clone(), process.number);
    if let [order] = numbers[..] {
        let mut world = shared.lock();
        let sent = world.sends(order, number);
        let request = world.orders[order].request(sent);
        // Some clients leave early. Their request may still be accepted.
        let patience = match world.random.u32(0..6) {
            0 => Duration::from_millis(world.random.u64(0..2_000)),
            _ => STORE_TIMEOUT * 2,
        };
        drop(world);
        let app = process.app.clone();
        process.spawn(async move {
            let answer = match timeout(patience, app.oneshot(request)).await {
                Ok(Ok(response)) => Answer::of(&response),
                _ => Answer::Later,
            };
            shared.enter(number).answered(order, answer);
        });
        return;
    }
    let mut world = shared.lock();
    let submissions: Vec<_> = numbers
        .iter()
        .map(|order| {
            let _ = world.sends(*order, number);
            world.orders[*order].submission()
        })
        .collect();
    drop(world);
    let tasks = process.tasks.clone();
    process.spawn(async move {
        let submitted = tasks.submit_all(submissions).await;
        let mut world = shared.enter(number);
        match submitted {
            Ok(each) => {
                for (order, submitted) in numbers.into_iter().zip(&each) {
                    world.answered(order, Answer::of_submitted(submitted));
                }
            }
            Err(_) => numbers
                .into_iter()
                .for_each(|order| world.answered(order, Answer::Later)),
        }
    });
}

/// Carries out a client's action on some task.
pub(super) fn ask(shared: &Shared, process: &Process, wish: &Wish) {
    let mut world = shared.lock();
    let Some((id, tenant)) = world.any_task() else { return };
    let (shared, number) = (shared.clone(), process.number);
    let Some(known) = world.known.get_mut(&id) else { return };
    let own = Scope::One(tenant);
    match wish {
        Wish::Order => {}
        Wish::Stop => {
            let stranger = world.random.u32(0..8) == 0;
            if let Some(known) = world.known.get_mut(&id) {
                known.asked.stop |= !stranger;
            }
            world.note(format_args!("stop {id}, as a stranger: {stranger}"));
            let scope = match stranger {
                true => Scope::One(Some(Tenant::new("stranger"))),
                false => own,
            };
            let tasks = process.tasks.scoped(scope);
            process.spawn(async move {
                let answer = tasks.stop(id).await;
                let mut world = shared.enter(number);
                let refused = answer
                    .as_ref()
                    .is_err_and(|error| matches!(error.kind(), StoreErrorKind::NotFound | StoreErrorKind::Unavailable));
                world.check(12, refused || !stranger, format_args!("a stranger stopped {id}"));
                let Ok(stop) = answer else { return };
                if stop == Stop::Stopping {
                    world.told_to_stop(number, id, None);
                }
                world.told_stopped(id, stop);
            });
        }
        Wish::Rerun => {
            let mut edits = Edits::default();
            known.asked.rerun.push(edits.clone());
            if world.random.bool() {
                edits.body = Some(Bytes::from(vec![world.random.u8(..); 20]));
                if let Some(asked) = world.known.get_mut(&id).and_then(|known| known.asked.rerun.last_mut()) {
                    asked.clone_from(&edits);
                }
            }
            world.note(format_args!("run {id} again, edited: {}", !edits.is_empty()));
            let tasks = process.tasks.clone();
            process.spawn(async move {
                if let Ok(Rerun::Enqueued { generation }) = tasks.rerun(id, edits).await {
                    let world = shared.enter(number);
                    let as_told = world.known.get(&id).is_none_or(|known| known.generation >= generation);
                    world.check(4, as_told, format_args!("{id} does not run again as was told"));
                }
            });
        }
        Wish::Redeliver => {
            known.asked.redeliver = true;
            let latest = known.generation;
            let generation = world.random.u32(1..=latest);
            let to = match world.random.bool() {
                true => Destination::LOCAL,
                false => Destination::new(TOLD),
            };
            world.note(format_args!(
                "tell {to} of the end of {id} in generation {generation} again"
            ));
            let tasks = process.tasks.clone();
            process.spawn(async move {
                let _ = tasks.redeliver(id, generation, &to).await;
            });
        }
        Wish::Delete => {
            known.asked.delete = true;
            world.note(format_args!("delete {id}"));
            let tasks = process.tasks.clone();
            process.spawn(async move {
                if let Ok(delete) = tasks.delete(id).await {
                    shared.enter(number).told_deleted(id, delete);
                }
            });
        }
        Wish::Wait => {
            world.note(format_args!("wait for {id}"));
            world.waits(id, number);
            drop(world);
            let tasks = process.tasks.scoped(own);
            process.spawn(super::waiting::wait(shared, number, id, tasks));
        }
    }
}

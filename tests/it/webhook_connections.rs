//! Connections to receivers are kept for the next completion. These tests cover a connection that its receiver has
//! closed meanwhile, whether that was noticed before the next request was sent or not.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    sync::Barrier,
};
use tower_respond_async::{
    MemoryStore, RequestId, TaskRecord, Tasks,
    error::BoxFuture,
    hook::webhook::{CallbackPolicy, Resolve, Webhook, verify},
    task::DeliveryStatus,
};

use crate::{
    callbacks::prefer_callback,
    engine_support::{eventually, find, ok, quick, serve, submit},
    receiver::{Answer, Received, Receiver},
    support::{App, routes},
    webhooks::{Fixed, hasty, secret, settled, tls},
};

/// An engine that delivers to this receiver, with a schedule of three tries.
fn telling(receiver: &Receiver) -> Tasks {
    let webhook = Webhook::new(&receiver.url("/hook")).unwrap().secret(secret());
    serve(
        quick(MemoryStore::new()).on_completion(webhook.schedule(hasty(3))),
        |_| async { ok() },
    )
}

/// Delivers one completion after another until a connection is used again. Answers with that task, and the messages
/// about it.
async fn told_on_a_kept_connection(
    tasks: &Tasks,
    receiver: &Receiver,
    status: DeliveryStatus,
) -> (Arc<TaskRecord>, Vec<Received>) {
    loop {
        let id = submit(tasks, "/").await;
        eventually("it is settled", async || {
            let status = find(tasks, id).await.destination_status();
            !matches!(status, DeliveryStatus::None | DeliveryStatus::Pending)
        })
        .await;
        let of_it = of(receiver, id);
        if of_it.iter().any(|message| message.turn > 0) {
            return (settled(tasks, id, status).await, of_it);
        }
    }
}

fn of(receiver: &Receiver, id: RequestId) -> Vec<Received> {
    let mut all = receiver.received();
    all.retain(|message| message.header("webhook-id").contains(&id.to_string()));
    all
}

fn assert_alike(messages: &[Received]) {
    for message in messages {
        assert_eq!(message.body, messages[0].body);
        assert_eq!(message.header("webhook-id"), messages[0].header("webhook-id"));
        verify(&message.headers, &message.body, &[secret()]).unwrap();
    }
}

/// A proxy that keeps connections for a minute does this when the next request arrives at the end of that minute.
#[tokio::test]
async fn a_kept_connection_that_turns_out_closed_costs_no_try() {
    let first_only = |then: Answer| {
        move |_: usize, message: &Received| match message.turn {
            0 => Answer::Status(200),
            _ => then.clone(),
        }
    };
    for receiver in [
        Receiver::start(first_only(Answer::Close)).await,
        Receiver::start(first_only(Answer::HalfClose)).await,
        Receiver::start_resetting(first_only(Answer::Close)).await,
    ] {
        let tasks = telling(&receiver);
        let (record, messages) = told_on_a_kept_connection(&tasks, &receiver, DeliveryStatus::Delivered).await;
        assert_eq!(record.deliveries[0].tries.len(), 1, "{record:?}");
        assert_eq!(record.deliveries[0].tries[0].status_code, Some(200));
        let turns: Vec<_> = messages.iter().map(|message| message.turn).collect();
        assert_eq!(turns, [1, 0]);
        assert_alike(&messages);
    }
}

/// The closing message of TLS is read, and is not an answer.
#[tokio::test]
async fn the_end_of_tls_is_no_beginning_of_an_answer() {
    let (acceptor, certificate) = tls(&[]);
    let receiver = Receiver::start_tls(acceptor, |_, message| match message.turn {
        0 => Answer::Status(200),
        _ => Answer::HalfClose,
    })
    .await;
    let webhook = Webhook::new(&format!("https://hook.example:{}/", receiver.port())).unwrap();
    let webhook = webhook.resolver(Fixed(vec![[127, 0, 0, 1].into()])).secret(secret());
    let webhook = webhook.root_certificate(&certificate).unwrap();
    let tasks = serve(quick(MemoryStore::new()).on_success(webhook), |_| async { ok() });
    let (record, messages) = told_on_a_kept_connection(&tasks, &receiver, DeliveryStatus::Delivered).await;
    assert_eq!((record.deliveries[0].tries.len(), messages.len()), (1, 2), "{record:?}");
    assert_alike(&messages);
}

/// A connection that is closed between two completions is noticed before or during the request: neither costs a try.
#[tokio::test]
async fn a_connection_that_is_closed_while_idle_costs_no_try() {
    for receiver in [
        Receiver::start(|_, _| Answer::ThenClose(200)).await,
        Receiver::start_resetting(|_, _| Answer::ThenClose(200)).await,
    ] {
        let tasks = telling(&receiver);
        for _ in 0..100 {
            let id = submit(&tasks, "/").await;
            let record = settled(&tasks, id, DeliveryStatus::Delivered).await;
            assert_eq!(record.deliveries[0].tries.len(), 1, "{record:?}");
        }
        receiver.has(100).await;
    }
}

/// No other kept connection is tried: all of them were closed at the same time.
#[tokio::test]
async fn of_several_kept_connections_that_are_closed_only_one_is_tried() {
    let barrier = Arc::new(Barrier::new(3));
    let receiver = Receiver::start(move |before, message| match (before, message.turn) {
        (0..3, _) => Answer::Together(barrier.clone(), 200),
        (_, 0) => Answer::Status(200),
        _ => Answer::Close,
    })
    .await;
    let tasks = telling(&receiver);
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(submit(&tasks, "/").await);
    }
    for id in ids {
        settled(&tasks, id, DeliveryStatus::Delivered).await;
    }
    assert_eq!(receiver.connections(), 3);
    let (record, messages) = told_on_a_kept_connection(&tasks, &receiver, DeliveryStatus::Delivered).await;
    assert_eq!((record.deliveries[0].tries.len(), messages.len()), (1, 2));
    assert_eq!(messages[1].turn, 0);
}

#[tokio::test]
async fn a_receiver_that_always_closes_is_called_by_its_schedule_and_once_more() {
    let receiver = Receiver::start(|before, _| match before {
        0 => Answer::Status(200),
        _ => Answer::Close,
    })
    .await;
    let tasks = telling(&receiver);
    let id = submit(&tasks, "/").await;
    settled(&tasks, id, DeliveryStatus::Delivered).await;
    let id = submit(&tasks, "/").await;
    let record = settled(&tasks, id, DeliveryStatus::Failed).await;
    let messages = of(&receiver, id);
    let kept = messages.iter().filter(|message| message.turn > 0).count();
    assert_eq!((record.deliveries[0].tries.len(), messages.len()), (3, 3 + kept));
    assert!(kept <= 1, "what failed is not kept");
    assert_alike(&messages);
}

/// A receiver that has begun to answer has read the request. A first connection has nothing to do with kept ones.
#[tokio::test]
async fn what_was_answered_in_part_and_what_failed_on_a_fresh_connection_waits_for_its_schedule() {
    let receiver = Receiver::start(|_, message| match message.turn {
        0 => Answer::Status(200),
        _ => Answer::Part,
    })
    .await;
    let tasks = telling(&receiver);
    let (record, messages) = told_on_a_kept_connection(&tasks, &receiver, DeliveryStatus::Delivered).await;
    assert_eq!((record.deliveries[0].tries.len(), messages.len()), (2, 2), "{record:?}");
    assert_eq!(record.deliveries[0].tries[0].status_code, None);

    let receiver = Receiver::start(|before, _| match before {
        0 => Answer::Close,
        _ => Answer::Status(200),
    })
    .await;
    let tasks = telling(&receiver);
    let id = submit(&tasks, "/").await;
    let record = settled(&tasks, id, DeliveryStatus::Delivered).await;
    assert_eq!(record.deliveries[0].tries.len(), 2, "{record:?}");
    receiver.has(2).await;
}

/// The name leads to another address by the time of the second connection.
#[tokio::test]
async fn the_fresh_connection_is_checked_like_any_other() {
    struct Moving(AtomicUsize);
    impl Resolve for Moving {
        fn resolve<'a>(&'a self, _: &'a str) -> BoxFuture<'a, std::io::Result<Vec<IpAddr>>> {
            let address = match self.0.fetch_add(1, Ordering::SeqCst) {
                0..=2 => [127, 0, 0, 1],
                _ => [10, 0, 0, 1],
            };
            Box::pin(std::future::ready(Ok(vec![address.into()])))
        }
    }
    let receiver = Receiver::start(|_, message| match message.turn {
        0 => Answer::Status(200),
        _ => Answer::Close,
    })
    .await;
    let policy = CallbackPolicy::public().allow("127.0.0.0/8").unwrap();
    let policy = policy.resolver(Moving(AtomicUsize::new(0)));
    let app = App::build(MemoryStore::new(), routes(), |builder| builder.callbacks(policy));
    let url = format!("http://moving.example:{}/", receiver.port());
    let send = async || {
        let answer = app.send(prefer_callback("/good", &url)).await;
        answer.assert_accepted();
        answer.id()
    };
    // One look-up when it is accepted, one at the connection.
    settled(&app.tasks, send().await, DeliveryStatus::Delivered).await;
    // One look-up when it is accepted. The kept connection was closed, and the fresh one leads into a private network.
    let record = settled(&app.tasks, send().await, DeliveryStatus::Blocked).await;
    assert_eq!(record.deliveries[0].tries.len(), 1);
    receiver.has(2).await;
}

/// Over HTTP/2 a receiver reports which of the requests under way it has not processed and never will (RFC 9113, 6.8),
/// or closes the connection without that.
#[tokio::test]
async fn an_http_2_connection_that_ends_under_a_request_costs_no_try() {
    for end in [Http2End::GoAway, Http2End::Cut] {
        let (acceptor, certificate) = tls(&[b"h2"]);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::new(AtomicUsize::new(0));
        let counting = requests.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let stream = acceptor.accept(stream).await.unwrap();
                tokio::spawn(serve_http_2(stream, end, counting.clone()));
            }
        });
        let webhook = Webhook::new(&format!("https://hook.example:{port}/")).unwrap();
        let webhook = webhook.resolver(Fixed(vec![[127, 0, 0, 1].into()])).schedule(hasty(3));
        let webhook = webhook.root_certificate(&certificate).unwrap();
        let tasks = serve(quick(MemoryStore::new()).on_success(webhook), |_| async { ok() });
        for sent in [1, 3] {
            let id = submit(&tasks, "/").await;
            let record = settled(&tasks, id, DeliveryStatus::Delivered).await;
            assert_eq!(record.deliveries[0].tries.len(), 1, "{end:?}: {record:?}");
            assert_eq!(requests.load(Ordering::SeqCst), sent);
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Http2End {
    GoAway,
    Cut,
}

/// Answers the first request of a connection, and ends the connection under the second. The minimum of HTTP/2 for that.
async fn serve_http_2(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    end: Http2End,
    requests: Arc<AtomicUsize>,
) -> std::io::Result<()> {
    const HEADERS: u8 = 1;
    const SETTINGS: u8 = 4;
    const GO_AWAY: u8 = 7;
    let frame = |kind: u8, flags: u8, stream: u32, payload: &[u8]| {
        let length = (payload.len() as u32).to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    };
    stream.read_exact(&mut [0; 24]).await?; // the preface
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload).await?;
        let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        match (head[3], id) {
            (SETTINGS, _) if head[4] == 0 => stream.write_all(&frame(SETTINGS, 1, 0, &[])).await?,
            (HEADERS, 1) => {
                requests.fetch_add(1, Ordering::SeqCst);
                let ok = [0x88]; // :status 200
                stream.write_all(&frame(HEADERS, 5, 1, &ok)).await?;
            }
            (HEADERS, _) => {
                requests.fetch_add(1, Ordering::SeqCst);
                match end {
                    Http2End::Cut => return Ok(()),
                    // Only the first stream was processed; there is no error.
                    Http2End::GoAway => {
                        stream
                            .write_all(&frame(GO_AWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]))
                            .await?;
                    }
                }
            }
            _ => {}
        }
        stream.flush().await?;
    }
}

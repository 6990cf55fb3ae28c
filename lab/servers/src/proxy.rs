//! A proxy between a client and its server, which fails on demand.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

/// Forwards connections to a server on 127.0.0.1, in both directions. It has its own threads, so a test that blocks its
/// runtime does not block connections.
///
/// It parses the messages of PostgreSQL servers, so connections must not be encrypted.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

/// A direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// From the client to the server.
    ToServer,
    /// From the server to the client.
    ToClient,
}

#[derive(Debug)]
struct Shared {
    server: AtomicU16,
    /// The delay of everything, in milliseconds.
    delay: AtomicU64,
    swallowed: AtomicU64,
    closed: AtomicBool,
    links: Mutex<Vec<Arc<Link>>>,
}

/// A connection of a client, and its connection to the server.
#[derive(Debug)]
struct Link {
    client: TcpStream,
    server: TcpStream,
    fault: Mutex<Option<Fault>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// Bytes in this direction do not arrive.
    Silent(Way),
    /// The answer to the next completed statement does not arrive, and the connection ends.
    SwallowsAnswer,
}

impl Proxy {
    /// Starts a proxy for the server on this port.
    pub fn start(server: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            server: AtomicU16::new(server),
            delay: AtomicU64::new(0),
            swallowed: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            links: Mutex::default(),
        });
        let accepting = shared.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if accepting.closed.load(Ordering::SeqCst) {
                    return;
                }
                // If nothing listens on the server's port, the client is dropped.
                let _ = accepting.link(client);
            }
        });
        Self { port, shared }
    }

    /// The port on which it listens, on 127.0.0.1.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// A URL of the server's database through the proxy.
    pub fn url(&self) -> String {
        format!("postgres://postgres:not-shown@127.0.0.1:{}/postgres", self.port)
    }

    /// Ends all connections.
    pub fn cut(&self) {
        for link in self.links().drain(..) {
            link.cut();
        }
    }

    /// Drops all bytes in this direction on the present connections, and keeps them open until they are cut.
    pub fn silence(&self, way: Way) {
        self.inflict(Fault::Silent(way));
    }

    /// On each present connection, the server completes one more statement. Its answer is lost with the connection.
    pub fn swallow_answers(&self) {
        self.inflict(Fault::SwallowsAnswer);
    }

    /// How many answers were lost in this way.
    pub fn swallowed(&self) -> u64 {
        self.shared.swallowed.load(Ordering::SeqCst)
    }

    /// Delays everything by this much from now on.
    pub fn delay(&self, by: Duration) {
        let by = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        self.shared.delay.store(by, Ordering::SeqCst);
    }

    /// Ends all connections, and leads new ones to the server on this port.
    pub fn lead_to(&self, server: u16) {
        self.shared.server.store(server, Ordering::SeqCst);
        self.cut();
    }

    fn inflict(&self, fault: Fault) {
        for link in &*self.links() {
            *lock(&link.fault) = Some(fault);
        }
    }

    fn links(&self) -> MutexGuard<'_, Vec<Arc<Link>>> {
        lock(&self.shared.links)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        self.cut();
        // Wakes the thread that accepts connections.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

impl Shared {
    fn link(self: &Arc<Self>, client: TcpStream) -> io::Result<()> {
        let server = TcpStream::connect((Ipv4Addr::LOCALHOST, self.server.load(Ordering::SeqCst)))?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let link = Arc::new(Link {
            client,
            server,
            fault: Mutex::default(),
        });
        lock(&self.links).push(link.clone());
        for way in [Way::ToServer, Way::ToClient] {
            let (shared, link) = (self.clone(), link.clone());
            thread::spawn(move || {
                // When one side closes, close the other side too.
                let _ = shared.pass_on(&link, way);
                link.cut();
                lock(&shared.links).retain(|other| !Arc::ptr_eq(other, &link));
            });
        }
        Ok(())
    }

    fn pass_on(&self, link: &Link, way: Way) -> io::Result<()> {
        let (mut from, mut to) = match way {
            Way::ToServer => (&link.client, &link.server),
            Way::ToClient => (&link.server, &link.client),
        };
        let mut buffer = vec![0; 1 << 16];
        // Messages of the server that are not forwarded yet; how many bytes of them are whole messages; whether these
        // complete a statement.
        let (mut held, mut whole, mut is_done) = (Vec::new(), 0, false);
        loop {
            let read = from.read(&mut buffer)?;
            if read == 0 {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(self.delay.load(Ordering::SeqCst)));
            let fault = *lock(&link.fault);
            if fault == Some(Fault::Silent(way)) {
                continue;
            }
            if way == Way::ToServer {
                to.write_all(&buffer[..read])?;
                continue;
            }
            held.extend_from_slice(&buffer[..read]);
            let (swallows, mut known) = (fault == Some(Fault::SwallowsAnswer), 0);
            while let Some(length) = length(&held[whole..]) {
                let (kind, state) = (held[whole], held[whole + length - 1]);
                whole += length;
                is_done |= kind == COMPLETE;
                if kind == READY {
                    if swallows && is_done && state == IDLE {
                        self.swallowed.fetch_add(1, Ordering::SeqCst);
                        return Ok(());
                    }
                    is_done = false;
                }
                // An answer is held back until its end is known.
                if !swallows || kind == READY {
                    known = whole;
                }
            }
            to.write_all(&held[..known])?;
            held.drain(..known);
            whole -= known;
        }
    }
}

/// The first bytes of messages of a server: a statement is complete; ready for the next, where the last byte says
/// whether a transaction is open.
const COMPLETE: u8 = b'C';
const READY: u8 = b'Z';
const IDLE: u8 = b'I';

/// The length of the first message, if all of it is there.
fn length(messages: &[u8]) -> Option<usize> {
    let length = messages.get(1..5)?.try_into().ok()?;
    // The length does not count the first byte.
    let length = 1 + u32::from_be_bytes(length) as usize;
    (messages.len() >= length).then_some(length)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Link {
    fn cut(&self) {
        // One of them may be closed already.
        let _ = self.client.shutdown(Shutdown::Both);
        let _ = self.server.shutdown(Shutdown::Both);
    }
}

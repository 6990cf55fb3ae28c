//! Renews leases and detects blocked handlers, on a thread with its own runtime.
//!
//! A handler that blocks the application's runtime must not cost other handlers their claims, so this does not use that
//! runtime. The thread is also the watchdog: if an attempt's own task does nothing after its deadline, the handler
//! blocks its thread. The watchdog then stores the end of the attempt. The slot stays taken until the handler returns.

use std::{
    io,
    sync::{Arc, Weak},
    thread,
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use crate::{
    engine::{
        attempts::{
            Attempts,
            attempt::{Directive, Input},
            running::Live,
        },
        caught::{caught_async, panicked},
        core::limited,
        under_way::Part,
    },
    probe::Event,
    task::lifecycle::Renewal,
};

/// How long after its deadline an attempt counts as blocked. A busy runtime is late by milliseconds, not by a second.
const BLOCKED_AFTER: Duration = Duration::from_secs(1);

/// How often the watchdog checks the attempts. It adds at most this to the delay until the end of a blocked attempt is
/// stored.
const CHECK_EVERY: Duration = Duration::from_millis(500);

/// The running lease thread. It ends when it is stopped, or when the engine is dropped.
pub(crate) struct LeaseThread {
    stop: watch::Sender<bool>,
    runs: Runs,
}

enum Runs {
    Apart(thread::JoinHandle<()>),
    /// In a simulation, which controls the time of the application's runtime.
    Within(tokio::task::JoinHandle<()>),
}

impl LeaseThread {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// The error of the operating system if it cannot start the runtime or the thread.
    pub(crate) fn start(attempts: &Arc<Attempts>) -> io::Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let keeping = keep(Arc::downgrade(attempts), stopped);
        if attempts.core.settings.simulated.is_some() {
            let runs = Runs::Within(attempts.core.runtime.spawn(keeping));
            return Ok(Self { stop, runs });
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = thread::Builder::new()
            .name("respond-async-lease".into())
            .spawn(move || runtime.block_on(keeping))?;
        let runs = Runs::Apart(thread);
        Ok(Self { stop, runs })
    }

    /// Stops the thread. Waits up to `limit` for a renewal that is under way.
    pub(crate) async fn stop(self, limit: Duration) {
        let _ = self.stop.send(true);
        let joined = match self.runs {
            Runs::Apart(thread) => tokio::task::spawn_blocking(move || drop(thread.join())),
            Runs::Within(task) => task,
        };
        let _ = timeout(limit, joined).await;
    }
}

async fn keep(attempts: Weak<Attempts>, mut stopped: watch::Receiver<bool>) {
    let Some(lease) = attempts.upgrade().map(|attempts| attempts.core.settings.lease) else {
        return;
    };
    let every = lease / 3;
    let mut renew_at = Instant::now() + every;
    loop {
        tokio::select! {
            biased;
            _ = stopped.changed() => return,
            () = tokio::time::sleep(CHECK_EVERY.min(every)) => {}
        }
        let Some(attempts) = attempts.upgrade() else {
            return;
        };
        let all = attempts.running.all();
        let now = Instant::now();
        for live in &all {
            attempts.check_deadline(live, now);
        }
        if now + CHECK_EVERY / 2 >= renew_at {
            let renewed = attempts.renew(all, every).await;
            // A failed renewal is repeated soon, because a lease has time for only two regular renewals.
            renew_at = now + if renewed { every } else { every / 4 };
        }
    }
}

impl Attempts {
    /// Renews the leases of the attempts in `all` that have not ended. Returns whether the store answered.
    pub(crate) async fn renew(&self, all: Vec<Arc<Live>>, limit: Duration) -> bool {
        let held: Vec<_> = all
            .into_iter()
            .filter(|live| live.machine().conclusion().is_none())
            .collect();
        if held.is_empty() {
            return true;
        }
        let leases = held.iter().map(|live| live.lease).collect();
        let lease = self.core.settings.lease;
        let sent_at = Instant::now();
        let timing = self.core.probes.time("renew");
        let renewed = caught_async(|| limited("renew", limit, self.core.ledger.store().renew(leases, lease))).await;
        let answer = timing.end(&self.core.probes, renewed.unwrap_or_else(|panic| Err(panicked(&panic))));
        let now = Instant::now();
        match answer {
            Ok(renewals) => {
                // Counted from the sending of the call, since the new lease in the store may have begun then.
                let until = sent_at + self.core.holds_for();
                for (live, renewal) in held.iter().zip(renewals) {
                    match renewal {
                        Renewal::Renewed { stop } => {
                            live.machine().handle(Input::Renewed(until), now);
                            if stop {
                                live.feed(Input::StopAsked, now);
                            }
                        }
                        Renewal::Lost => live.feed(Input::LeaseLost, now),
                    }
                }
            }
            Err(error) => {
                self.core.trouble("renewing leases", &error, limit / 4);
                return false;
            }
        }
        true
    }

    /// Concludes an attempt if its own task is overdue, and marks its slot as stuck.
    fn check_deadline(self: &Arc<Self>, live: &Arc<Live>, now: Instant) {
        let overdue = live
            .machine()
            .due_at()
            .is_some_and(|due_at| now >= due_at + BLOCKED_AFTER);
        if !overdue {
            return;
        }
        let noticed = live.mark_stuck(|| self.pools.slots.mark_stuck());
        if noticed {
            self.core.probes.emit(|| Event::Stuck {
                id: live.lease.id,
                attempt: live.attempt,
            });
        }
        let directive = live.machine().directive(now);
        let nothing_to_do = match directive {
            Directive::Run(_) | Directive::Wait(_) => true,
            Directive::Over(_) => !noticed,
            Directive::TimedOut | Directive::Settle(_) => false,
        };
        if nothing_to_do {
            return;
        }
        let (attempts, live) = (self.enter(), live.clone());
        // On the application's runtime, since the store may need it. A blocked handler leaves its other threads free.
        self.core
            .runtime
            .spawn(async move { attempts.conclude(&live, Some(directive)).await });
    }
}

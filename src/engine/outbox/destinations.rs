//! The destinations of this process, and how many deliveries to each run at once.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use crate::{
    engine::{
        outbox::hosts::Hosts,
        slots::{Slot, Slots},
    },
    error::ConfigError,
    hook::{Callbacks, Hook, HookKind, LocalHooks, Target, TryOutcome},
    store::Answers,
    task::{Condition, Conditions, Destination, Subscription, Subscriptions},
};

/// The hooks, targets and callback policy of the builder.
#[derive(Clone, Default)]
pub(crate) struct Hooks {
    local: LocalHooks,
    targets: Vec<(Conditions, Arc<dyn Target>)>,
    callbacks: Option<Arc<dyn Callbacks>>,
}

impl Hooks {
    pub(crate) fn add(&mut self, on: Conditions, hook: Hook) {
        match hook.0 {
            HookKind::InProcess(hook) => self.local.add(on, hook),
            HookKind::Aimed(target) => self.targets.push((on, target)),
        }
    }

    pub(crate) fn set_callbacks(&mut self, callbacks: Arc<dyn Callbacks>) {
        self.callbacks = Some(callbacks);
    }

    /// The policy for the callback URLs that requests name.
    pub(crate) fn callbacks(&self) -> Option<&Arc<dyn Callbacks>> {
        self.callbacks.as_ref()
    }

    /// Checks the destinations.
    ///
    /// # Errors
    ///
    /// [`ConfigError`]
    ///
    /// - if two destinations with one name cover the same kind of end, since their deliveries would be the same;
    /// - if there are more destinations than a task can have;
    /// - if a name is too long to be stored;
    /// - if a destination allows no concurrent deliveries.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let callbacks = self.callbacks.iter().map(|callbacks| callbacks.name());
        let mut names: Vec<_> = self
            .targets
            .iter()
            .map(|(_, target)| target.name())
            .chain(callbacks)
            .collect();
        names.sort_unstable();
        names.dedup();
        let count = names.len() + usize::from(!self.local.on().is_empty());
        if count > Subscriptions::MOST {
            let most = Subscriptions::MOST;
            let problem = format!(
                "there are {count} destinations, and a task can have {most}; let one of them pass on to others"
            );
            return Err(ConfigError::new("destinations", problem));
        }
        if let Some(long) = names.iter().find(|name| name.as_str().len() > Destination::LONGEST) {
            let problem = format!("the name {long:?} is longer than {} bytes", Destination::LONGEST);
            return Err(ConfigError::new("destinations", problem));
        }
        for (at, (on, target)) in self.targets.iter().enumerate() {
            let name = target.name();
            let same = |(other_on, other): &(Conditions, Arc<dyn Target>)| {
                other.name() == name && on.bits() & other_on.bits() != 0
            };
            if self.targets[..at].iter().any(same) {
                let problem = format!(
                    "two destinations are called {name:?} and get the same ends; give one of them another name"
                );
                return Err(ConfigError::new("destinations", problem));
            }
            if target.concurrency() == 0 {
                return Err(ConfigError::new(
                    "destinations",
                    format!("{name:?} allows no concurrent deliveries, so it would never be called"),
                ));
            }
        }
        Ok(())
    }
}

/// The destinations that this process delivers to.
pub(crate) struct Destinations {
    groups: Box<[Arc<Group>]>,
    subscriptions: Subscriptions,
    subscriptions_of_posted: Subscriptions,
    upcoming: Upcoming,
    /// The hosts to which callbacks were sent.
    pub(crate) hosts: Hosts,
}

/// The targets of one destination.
pub(crate) struct Group {
    pub(crate) name: Destination,
    targets: Vec<(Conditions, Arc<dyn Target>)>,
    /// The time limit of one try. Read once, so that no code of the application runs during a claim.
    limit: Duration,
    /// The slots of this destination alone, so that a silent receiver delays no other destination.
    slots: Slots,
    /// Whether more deliveries may be due than there were slots.
    backlog: AtomicBool,
    /// Whether the receiver answers. `None` if the deliveries go to several receivers.
    health: Option<Mutex<Health>>,
}

impl Destinations {
    /// Creates the destinations. `freed` is notified when a slot becomes free.
    pub(crate) fn new(hooks: &Hooks, freed: &Arc<Notify>) -> Self {
        let mut all: Vec<(Conditions, Arc<dyn Target>)> = Vec::new();
        let local = hooks.local.on();
        if !local.is_empty() {
            all.push((local, Arc::new(hooks.local.clone())));
        }
        all.extend(hooks.targets.iter().cloned());
        if let Some(callbacks) = &hooks.callbacks {
            // Only tasks whose request names a URL are subscribed to it.
            all.push((Conditions::NONE, callbacks.clone()));
        }
        let mut groups: Vec<Group> = Vec::new();
        for (on, target) in all {
            match groups.iter_mut().find(|group| group.name == *target.name()) {
                Some(group) => {
                    group.limit = group.limit.max(target.limit());
                    group.targets.push((on, target));
                }
                None => groups.push(Group::new(on, target, freed)),
            }
        }
        Self {
            subscriptions: subscriptions(&groups, |_| true),
            subscriptions_of_posted: subscriptions(&groups, |target| !target.reenters()),
            groups: groups.into_iter().map(Arc::new).collect(),
            upcoming: Upcoming::default(),
            hosts: Hosts::default(),
        }
    }

    pub(crate) fn groups(&self) -> &[Arc<Group>] {
        &self.groups
    }

    /// The subscriptions with which tasks are stored.
    pub(crate) const fn subscriptions(&self) -> &Subscriptions {
        &self.subscriptions
    }

    /// The subscriptions for a task that posts the completion of another task to the application.
    pub(crate) const fn subscriptions_of_posted(&self) -> &Subscriptions {
        &self.subscriptions_of_posted
    }

    /// The subscriptions for a task whose request named a callback URL.
    pub(crate) fn subscriptions_with_callback(&self) -> Subscriptions {
        let callback = Subscription {
            destination: Destination::CALLBACK,
            on: Conditions::ALL,
        };
        self.subscriptions.iter().cloned().chain([callback]).collect()
    }

    /// The number of free slots.
    pub(crate) fn free(&self) -> usize {
        self.groups.iter().map(|group| group.slots.free()).sum()
    }

    /// The destinations to claim for: all except those that have been silent for `silent` or longer.
    pub(crate) fn served(&self, now: Instant, silent: Duration) -> Vec<Destination> {
        let served = self.groups.iter().filter(|group| !group.is_silent(now, silent));
        served.map(|group| group.name.clone()).collect()
    }

    /// Which destinations answer, from the tries of this process. Destinations of other processes are not included.
    pub(crate) fn answers(&self, now: Instant) -> Answers {
        let names = |of: &dyn Fn(&Group) -> bool| {
            let groups = self.groups.iter().filter(|group| of(group));
            groups.map(|group| group.name.clone()).collect()
        };
        Answers {
            silent: names(&|group| group.is_silent(now, Duration::ZERO)),
            mixed: names(&|group| group.health.is_none()),
            hosts: self.hosts.answers(),
            overdue: UNTRIED,
        }
    }

    /// Records that a delivery is due again at `at`.
    pub(crate) fn note_upcoming(&self, at: Instant) {
        let mut upcoming = self.upcoming.lock();
        upcoming.insert(at);
        if upcoming.len() > UPCOMING_KEPT {
            upcoming.pop_last();
        }
    }

    /// The time until a recorded delivery is due or the pause of a destination ends, whichever is sooner.
    pub(crate) fn next_look(&self, now: Instant) -> Option<Duration> {
        let mut upcoming = self.upcoming.lock();
        *upcoming = upcoming.split_off(&(now + Duration::from_nanos(1)));
        let due = upcoming.first().copied();
        drop(upcoming);
        let pauses = self.groups.iter().filter_map(|group| group.paused_until(now));
        pauses.chain(due).min().map(|at| at - now)
    }
}

impl Group {
    fn new(on: Conditions, target: Arc<dyn Target>, freed: &Arc<Notify>) -> Self {
        let name = target.name().clone();
        // Hooks are independent of each other, and callbacks go to many hosts: the failure of one says nothing about
        // the next.
        let has_one_receiver = name != Destination::LOCAL && name != Destination::CALLBACK;
        Self {
            slots: Slots::new(target.concurrency(), freed.clone()),
            backlog: AtomicBool::new(false),
            health: has_one_receiver.then(Mutex::default),
            limit: target.limit(),
            targets: vec![(on, target)],
            name,
        }
    }

    /// Slots for the deliveries that may begin now.
    pub(crate) fn take_slots(&self, max: usize, now: Instant) -> Vec<Slot> {
        let allowed = match self.health().map(|health| health.allows(now)) {
            None | Some(Allowed::All) => max,
            Some(Allowed::One) if self.slots.used() == 0 => max.min(1),
            Some(Allowed::One | Allowed::None) => 0,
        };
        std::iter::from_fn(|| self.slots.take(0)).take(allowed).collect()
    }

    /// The target for this kind of end. If there is none, because the settings have changed since the task was stored,
    /// the first target of the destination.
    pub(crate) fn target(&self, condition: Condition) -> &Arc<dyn Target> {
        let wanted = self.targets.iter().find(|(on, _)| on.contains(condition));
        let (_, target) = wanted.unwrap_or(&self.targets[0]);
        target
    }

    /// Whether this is the group of the hooks in this process.
    pub(crate) fn is_local(&self) -> bool {
        self.name == Destination::LOCAL
    }

    /// The time limit of one try.
    pub(crate) const fn limit(&self) -> Duration {
        self.limit
    }

    pub(crate) fn note_backlog(&self) {
        self.backlog.store(true, Ordering::SeqCst);
    }

    /// Whether more deliveries may be due. Resets the flag.
    pub(crate) fn take_backlog(&self) -> bool {
        self.backlog.swap(false, Ordering::SeqCst)
    }

    /// Records the result of a try.
    pub(crate) fn note(&self, outcome: TryOutcome, now: Instant) {
        if let Some(mut health) = self.health() {
            health.note(outcome, now);
        }
    }

    fn is_silent(&self, now: Instant, silent: Duration) -> bool {
        let since = self.health().and_then(|health| health.failing_since);
        since.is_some_and(|since| now.saturating_duration_since(since) >= silent)
    }

    fn paused_until(&self, now: Instant) -> Option<Instant> {
        self.health()?.until.filter(|until| *until > now)
    }

    fn health(&self) -> Option<MutexGuard<'_, Health>> {
        let health = self.health.as_ref()?;
        Some(health.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn subscriptions(groups: &[Group], wanted: impl Fn(&dyn Target) -> bool) -> Subscriptions {
    let all = groups.iter().filter_map(|group| {
        let of_group = group.targets.iter().filter(|(_, target)| wanted(&**target));
        let on = of_group.fold(Conditions::NONE, |all, (on, _)| all.or(*on));
        (!on.is_empty()).then(|| Subscription {
            destination: group.name.clone(),
            on,
        })
    });
    all.collect()
}

/// Whether a destination answers. A silent one gets one delivery at a time, with pauses. More would only use up tries,
/// and CPU time that tasks need.
#[derive(Debug, Default)]
struct Health {
    /// The number of failed tries since the last one that was delivered or given up.
    failures: u32,
    until: Option<Instant>,
    failing_since: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Allowed {
    All,
    One,
    None,
}

/// How long a callback may be due without a try before its host counts as silent. A host that answers is tried in this
/// time.
const UNTRIED: Duration = Duration::from_secs(10);

/// After this many failed tries in a row, a destination counts as silent. Fewer may fail by chance.
pub(crate) const FAILURES_ALLOWED: u32 = 3;
/// The first pause of a silent destination. It doubles with each further failure.
const PAUSE_BASE: Duration = Duration::from_millis(100);
/// The longest such pause, so that a receiver that answers again is noticed within a second.
const PAUSE_CAP: Duration = Duration::from_secs(1);

impl Health {
    fn allows(&self, now: Instant) -> Allowed {
        match self.until {
            _ if self.failures < FAILURES_ALLOWED => Allowed::All,
            Some(until) if now < until => Allowed::None,
            _ => Allowed::One,
        }
    }

    fn note(&mut self, outcome: TryOutcome, now: Instant) {
        match outcome {
            TryOutcome::Delivered | TryOutcome::GivenUp => *self = Self::default(),
            TryOutcome::Failed { .. } => {
                self.failures = self.failures.saturating_add(1);
                if let Some(more) = self.failures.checked_sub(FAILURES_ALLOWED) {
                    let pause = PAUSE_BASE.saturating_mul(1 << more.min(10)).min(PAUSE_CAP);
                    self.until = Some(now + pause);
                    self.failing_since.get_or_insert(now);
                }
            }
            TryOutcome::Blocked | TryOutcome::Postponed(_) => {}
        }
    }
}

/// When deliveries that this process tried are due again. Regular claims find the others.
#[derive(Default)]
struct Upcoming(Mutex<BTreeSet<Instant>>);

/// How many such times are kept, the earliest first. Regular claims find the deliveries whose times are not kept.
const UPCOMING_KEPT: usize = 1024;

impl Upcoming {
    fn lock(&self) -> MutexGuard<'_, BTreeSet<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hook::AppPath;

    const FAILED: TryOutcome = TryOutcome::Failed { retry_after: None };

    #[test]
    fn a_destination_that_does_not_answer_is_asked_by_one_at_a_time_and_ever_more_seldom() {
        let mut now = Instant::now();
        let mut health = Health::default();
        for _ in 0..FAILURES_ALLOWED {
            assert_eq!(health.allows(now), Allowed::All);
            health.note(FAILED, now);
        }
        let mut pauses = Vec::new();
        for _ in 0..6 {
            assert_eq!(health.allows(now), Allowed::None);
            let until = health.until.unwrap();
            pauses.push((until - now).as_millis());
            now = until;
            assert_eq!(health.allows(now), Allowed::One);
            health.note(FAILED, now);
        }
        assert_eq!(pauses, [100, 200, 400, 800, 1000, 1000]);
        health.note(TryOutcome::Delivered, now);
        assert_eq!(health.allows(now), Allowed::All);
    }

    #[test]
    fn a_destination_is_silent_from_its_last_answer_on() {
        let now = Instant::now();
        let minute = Duration::from_secs(60);
        let group = Group::new(
            Conditions::ALL,
            Arc::new(AppPath::new("/told").unwrap()),
            &Arc::default(),
        );
        for _ in 1..FAILURES_ALLOWED {
            group.note(FAILED, now);
        }
        assert!(!group.is_silent(now + minute, minute), "so many may fail by chance");
        group.note(FAILED, now);
        group.note(FAILED, now + minute / 2);
        assert!(!group.is_silent(now + minute / 2, minute));
        assert!(group.is_silent(now + minute, minute));
        group.note(TryOutcome::Delivered, now + minute);
        assert!(!group.is_silent(now + 2 * minute, minute));
    }

    #[test]
    fn what_is_due_next_is_known_until_it_is_past() {
        let destinations = Destinations::new(&Hooks::default(), &Arc::default());
        let now = Instant::now();
        assert_eq!(destinations.next_look(now), None);
        for millis in [30, 10, 20] {
            destinations.note_upcoming(now + Duration::from_millis(millis));
        }
        assert_eq!(destinations.next_look(now), Some(Duration::from_millis(10)));
        let later = now + Duration::from_millis(10);
        assert_eq!(destinations.next_look(later), Some(Duration::from_millis(10)));
        for millis in 0..2 * UPCOMING_KEPT as u64 {
            destinations.note_upcoming(later + Duration::from_secs(1) + Duration::from_millis(millis));
        }
        assert!(destinations.upcoming.lock().len() <= UPCOMING_KEPT);
        assert_eq!(
            destinations.next_look(later),
            Some(Duration::from_millis(10)),
            "the earliest are kept"
        );
    }
}

//! The number of tasks in each state, by tenant.

use std::collections::HashMap;

use crate::task::{Counts, Scope, TaskState, Tenant};

/// Counts tasks by state, for all tenants and for each.
///
/// # Examples
///
/// ```
/// use tower_respond_async::{store::kit::Tally, task::{Counts, Scope, TaskState, Tenant}};
///
/// let tenant = Tenant::new("acme");
/// let mut tally = Tally::default();
/// tally.add(Some(&tenant), TaskState::Enqueued);
/// tally.change(Some(&tenant), TaskState::Enqueued, TaskState::Running);
///
/// let mut counts = Counts::default();
/// tally.count_into(&mut counts, &Scope::One(Some(tenant)));
/// assert_eq!(counts.of(TaskState::Running), 1);
/// ```
#[derive(Debug, Default)]
pub struct Tally {
    states: States,
    tenants: HashMap<Tenant, States>,
}

type States = [u64; TaskState::ALL.len()];

impl Tally {
    /// Counts a new task.
    pub fn add(&mut self, tenant: Option<&Tenant>, state: TaskState) {
        self.states[state as usize] += 1;
        if let Some(tenant) = tenant {
            self.tenants.entry(tenant.clone()).or_default()[state as usize] += 1;
        }
    }

    /// Counts a change of a task's state.
    pub fn change(&mut self, tenant: Option<&Tenant>, from: TaskState, to: TaskState) {
        if from == to {
            return;
        }
        move_one(&mut self.states, from, to);
        if let Some(states) = tenant.and_then(|tenant| self.tenants.get_mut(tenant)) {
            move_one(states, from, to);
        }
    }

    /// Removes a task from the counts.
    pub fn remove(&mut self, tenant: Option<&Tenant>, state: TaskState) {
        self.states[state as usize] -= 1;
        if let Some(tenant) = tenant
            && let Some(states) = self.tenants.get_mut(tenant)
        {
            states[state as usize] -= 1;
            if states.iter().all(|count| *count == 0) {
                self.tenants.remove(tenant);
            }
        }
    }

    /// Adds the counts in `scope` to `counts`.
    pub fn count_into(&self, counts: &mut Counts, scope: &Scope) {
        for state in TaskState::ALL {
            let of = |tenant: &Tenant| self.tenants.get(tenant).map_or(0, |states| states[state as usize]);
            let count = match scope {
                Scope::All => self.states[state as usize],
                Scope::One(Some(tenant)) => of(tenant),
                Scope::One(None) => {
                    let tenants: u64 = self.tenants.values().map(|states| states[state as usize]).sum();
                    self.states[state as usize] - tenants
                }
            };
            counts.set(state, counts.of(state) + count);
        }
    }
}

const fn move_one(states: &mut States, from: TaskState, to: TaskState) {
    states[from as usize] -= 1;
    states[to as usize] += 1;
}

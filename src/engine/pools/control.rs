//! The named values of pools in the store: their pauses and numbers of slots.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    store::{Control, Controls},
    task::PoolName,
    time::Timestamp,
};

/// The prefix of the names of these values.
const PREFIX: &str = "pool/";

/// The named value of one pool. It applies to every process, and overrides the builder.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct PoolControl {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) paused: Option<Pause>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) concurrency: Option<usize>,
    /// The fields that a newer version of this crate wrote, kept unchanged.
    #[serde(flatten)]
    unknown: serde_json::Map<String, serde_json::Value>,
}

/// Why and since when a pool is paused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pause {
    /// In milliseconds, by the store's clock.
    pub(crate) since: u64,
    #[serde(default)]
    pub(crate) reason: String,
    /// Whether the pool is being resumed. It stays paused until the expiry of each of its queued tasks is moved by the
    /// time of the pause.
    #[serde(default)]
    pub(crate) resuming: bool,
}

impl Pause {
    pub(crate) const fn since(&self) -> Timestamp {
        Timestamp::from_millis(self.since)
    }
}

impl PoolControl {
    /// Reads a named value. An unreadable value counts as empty.
    pub(crate) fn read(control: &Control) -> Self {
        serde_json::from_slice(&control.value).unwrap_or_default()
    }

    /// The named value; `None` if it is empty.
    pub(crate) fn write(&self) -> Option<Bytes> {
        let is_empty = *self == Self::default();
        let value = (!is_empty).then(|| serde_json::to_vec(self).ok()).flatten();
        value.map(Bytes::from)
    }

    pub(crate) const fn is_paused(&self) -> bool {
        self.paused.is_some()
    }
}

/// The name of the value for a pool.
pub(crate) fn value_of(pool: &PoolName) -> String {
    format!("{PREFIX}{pool}")
}

/// The values of all pools, as this process last read them.
#[derive(Debug, Default)]
pub(crate) struct PoolControls {
    version: Option<u64>,
    pools: BTreeMap<PoolName, PoolControl>,
}

impl PoolControls {
    /// Replaces the values, unless it has newer ones already. Returns whether it replaced them.
    pub(crate) fn update(&mut self, controls: &Controls) -> bool {
        if self.version.is_some_and(|known| known > controls.version) {
            return false;
        }
        self.version = Some(controls.version);
        let of_pools = controls.values.iter().filter_map(|control| {
            let name = control.name.strip_prefix(PREFIX)?;
            Some((PoolName::new(name).ok()?, PoolControl::read(control)))
        });
        self.pools = of_pools.collect();
        true
    }

    pub(crate) const fn version(&self) -> Option<u64> {
        self.version
    }

    pub(crate) fn of(&self, pool: &PoolName) -> Option<&PoolControl> {
        self.pools.get(pool)
    }

    pub(crate) fn paused(&self) -> Vec<PoolName> {
        let paused = self.pools.iter().filter(|(_, control)| control.is_paused());
        paused.map(|(name, _)| name.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_a_newer_build_are_kept_and_an_unreadable_value_counts_as_empty() {
        let control = |value: &'static str| Control {
            name: "pool/a".into(),
            version: 1,
            value: value.into(),
        };
        let mut read = PoolControl::read(&control(r#"{"paused":{"since":7,"by":"ops"},"rate":3}"#));
        assert_eq!(read.paused.as_ref().unwrap().since(), Timestamp::from_millis(7));
        read.paused = None;
        assert_eq!(read.write().unwrap(), r#"{"rate":3}"#);
        let nothing = PoolControl::read(&control("no JSON"));
        assert!(!nothing.is_paused() && nothing.write().is_none());
    }

    #[test]
    fn an_older_answer_does_not_undo_a_newer_one() {
        let paused = |version| Controls {
            version,
            values: vec![Control {
                name: "pool/a".into(),
                version,
                value: r#"{"paused":{"since":7}}"#.into(),
            }],
            changed: false,
        };
        let pool = PoolName::new("a").unwrap();
        let mut controls = PoolControls::default();
        assert!(controls.update(&paused(5)));
        let older = Controls {
            version: 4,
            ..Controls::default()
        };
        assert!(!controls.update(&older));
        assert_eq!(controls.paused(), [pool]);
    }
}

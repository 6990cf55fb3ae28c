//! [`Labels`]: words to find or group tasks by, and how much of them a task may carry.

use std::{collections::BTreeMap, sync::Arc};

/// Words put on a task to find or group it by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(Option<Arc<BTreeMap<String, String>>>);

impl Labels {
    /// How much a task's labels may take together, in bytes: names, values, and two for each of them, so that many empty ones
    /// are not free. They are looked at for every task of a search and written with every change of the task: enough for a
    /// dozen ids, too little for a document. More is refused when the task is accepted, since a label that was cut would
    /// find the wrong tasks.
    pub const LONGEST: usize = 1024;

    /// Takes these labels, if they are few and short enough to be kept.
    ///
    /// Collecting an iterator takes any, and leaves it to [`Tasks::submit`](crate::Tasks::submit) and the layer to refuse them.
    ///
    /// # Errors
    ///
    /// [`TooLong`] if they take more than [`LONGEST`](Self::LONGEST) bytes together.
    pub fn new<K: Into<String>, V: Into<String>>(labels: impl IntoIterator<Item = (K, V)>) -> Result<Self, TooLong> {
        let labels = Self::from_iter(labels);
        labels.check()?;
        Ok(labels)
    }

    /// Each name with its value.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .flat_map(|map| map.iter().map(|(name, value)| (name.as_str(), value.as_str())))
    }

    /// The value under this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.as_ref()?.get(name).map(String::as_str)
    }

    /// How much they take, as [`LONGEST`](Self::LONGEST) counts it.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.iter().map(|(name, value)| weight(name, value)).sum()
    }

    pub(crate) fn check(&self) -> Result<(), TooLong> {
        TooLong::check("labels", self.weight(), Self::LONGEST)
    }
}

/// How much one label takes.
pub(crate) const fn weight(name: &str, value: &str) -> usize {
    name.len() + value.len() + 2
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Labels {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(labels: I) -> Self {
        let map: BTreeMap<_, _> = labels
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect();
        Self((!map.is_empty()).then(|| Arc::new(map)))
    }
}

/// Why something cannot be kept with a task: there is more of it than a record has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there are {bytes} bytes of {what}, and at most {longest} are kept with a task")]
#[non_exhaustive]
pub struct TooLong {
    /// What it is: `labels`, `tenant` or `callback URL`.
    pub what: &'static str,
    /// How much there is of it.
    pub bytes: usize,
    /// How much is kept.
    pub longest: usize,
}

impl TooLong {
    pub(crate) const fn check(what: &'static str, bytes: usize, longest: usize) -> Result<(), Self> {
        match bytes <= longest {
            true => Ok(()),
            false => Err(Self { what, bytes, longest }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_labels_than_are_kept_are_refused_whole() {
        let value = "v".repeat(Labels::LONGEST - 3);
        let labels = Labels::new([("a", &*value)]).unwrap();
        assert_eq!((labels.get("a"), labels.get("b")), (Some(&*value), None));
        let refused = Labels::new([("a", &*value), ("b", "")]).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "there are 1027 bytes of labels, and at most 1024 are kept with a task"
        );
        let empty = (0..400).map(|number| (format!("{number:x}"), ""));
        assert!(Labels::new(empty).is_err(), "many empty ones are not free");
    }
}

//! [`Labels`]: words to find or group tasks by, and their bound.

use std::{collections::BTreeMap, sync::Arc};

/// Words to find or group a task by: names with values.
///
/// # Examples
///
/// ```
/// use tower_respond_async::task::Labels;
///
/// let labels = Labels::new([("customer", "anna"), ("order", "17")])?;
/// assert_eq!(labels.get("customer"), Some("anna"));
/// assert!(Labels::new([("note", "n".repeat(2_000))]).is_err());
/// # Ok::<_, tower_respond_async::task::TooLong>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(Option<Arc<BTreeMap<String, String>>>);

impl Labels {
    /// The longest labels of one task, in bytes: all names and values, and two bytes for each label, so that many empty
    /// ones count too.
    ///
    /// Labels are read for every task of a search, and written with every change of the task: there is room for a dozen
    /// ids, not for a document. More is refused when the task is accepted, since a cut label would find the wrong
    /// tasks.
    pub const LONGEST: usize = 1024;

    /// Labels of these names and values, if they are short enough to be kept.
    ///
    /// Collecting an iterator does not check this; [`Tasks::submit`](crate::Tasks::submit) and the layer do.
    ///
    /// # Errors
    ///
    /// [`TooLong`] if they have more than [`LONGEST`](Self::LONGEST) bytes together.
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

    /// The value of the label of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.as_ref()?.get(name).map(String::as_str)
    }

    /// The size of the labels, counted as for [`LONGEST`](Self::LONGEST).
    #[must_use]
    pub fn weight(&self) -> usize {
        self.iter().map(|(name, value)| weight(name, value)).sum()
    }

    pub(crate) fn check(&self) -> Result<(), TooLong> {
        TooLong::check("labels", self.weight(), Self::LONGEST)
    }
}

/// The size of one label.
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

/// A part of a task has more bytes than a record has room for.
///
/// See the example of [`Labels`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there are {bytes} bytes of {what}, and at most {longest} are kept with a task")]
#[non_exhaustive]
pub struct TooLong {
    /// The part: `labels`, `tenant` or `callback URL`.
    pub what: &'static str,
    /// How many bytes it has.
    pub bytes: usize,
    /// How many bytes it may have.
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

//! The named values of a store, as one value.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;

use crate::{
    store::{Control, ControlChange, Controls},
    task::DecodeError,
};

/// The values that [`control`](crate::store::TaskStore::control) changes and reads, for a store that keeps them as one
/// value.
///
/// # Examples
///
/// ```
/// use tower_respond_async::store::{ControlChange, kit::ControlValues};
///
/// let mut values = ControlValues::default();
/// let change = ControlChange::new("pool/transcode".into(), 0, Some("paused".into()));
/// assert!(values.apply(Some(&change)).changed);
/// assert!(!values.apply(Some(&change)).changed, "it is not as it was");
/// assert_eq!(ControlValues::decode(&values.encode())?, values);
/// # Ok::<_, tower_respond_async::task::DecodeError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ControlValues {
    version: u64,
    values: BTreeMap<Arc<str>, (u64, Bytes)>,
}

impl ControlValues {
    /// The version of the latest change.
    #[must_use]
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// Makes a change if the value has the version that it replaces, and answers with all values after that.
    pub fn apply(&mut self, change: Option<&ControlChange>) -> Controls {
        let holds = |change: &&ControlChange| {
            let now = self.values.get(&change.name);
            now.map_or(0, |(version, _)| *version) == change.was
        };
        let change = change.filter(holds);
        if let Some(change) = change {
            self.version += 1;
            match &change.value {
                Some(value) => self.values.insert(change.name.clone(), (self.version, value.clone())),
                None => self.values.remove(&change.name),
            };
        }
        let values = self.values.iter().map(|(name, (version, value))| Control {
            name: name.clone(),
            version: *version,
            value: value.clone(),
        });
        Controls {
            version: self.version,
            values: values.collect(),
            changed: change.is_some(),
        }
    }

    /// Writes all values.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![FORMAT];
        out.extend_from_slice(&self.version.to_be_bytes());
        for (name, (version, value)) in &self.values {
            out.extend_from_slice(&version.to_be_bytes());
            for text in [name.as_bytes(), value] {
                out.extend_from_slice(&(text.len() as u32).to_be_bytes());
                out.extend_from_slice(text);
            }
        }
        out
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Newer`] if a newer build wrote the bytes, `Malformed` if no build did.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let Some((format, mut rest)) = bytes.split_first() else {
            return Err(MALFORMED);
        };
        if *format != FORMAT {
            return Err(DecodeError::Newer(*format));
        }
        let version = number(&mut rest)?;
        let mut values = BTreeMap::new();
        while !rest.is_empty() {
            let version = number(&mut rest)?;
            let name = std::str::from_utf8(text(&mut rest)?).map_err(|_| MALFORMED)?;
            let value = Bytes::copy_from_slice(text(&mut rest)?);
            values.insert(name.into(), (version, value));
        }
        Ok(Self { version, values })
    }
}

const FORMAT: u8 = 1;

const MALFORMED: DecodeError = DecodeError::Malformed("named values");

fn number(rest: &mut &[u8]) -> Result<u64, DecodeError> {
    let (number, behind) = rest.split_first_chunk().ok_or(MALFORMED)?;
    *rest = behind;
    Ok(u64::from_be_bytes(*number))
}

fn text<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], DecodeError> {
    let (length, behind) = rest.split_first_chunk().ok_or(MALFORMED)?;
    let length = u32::from_be_bytes(*length) as usize;
    let (text, behind) = behind.split_at_checked(length).ok_or(MALFORMED)?;
    *rest = behind;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(name: &str, was: u64, value: Option<&'static str>) -> ControlChange {
        ControlChange {
            name: name.into(),
            was,
            value: value.map(Bytes::from),
        }
    }

    #[test]
    fn a_value_that_was_removed_and_made_anew_is_another_one() {
        let mut values = ControlValues::default();
        let first = values.apply(Some(&put("a", 0, Some("1"))));
        assert_eq!(first.get("a").unwrap().version, 1);
        assert!(values.apply(Some(&put("a", 1, None))).changed);
        assert!(values.apply(Some(&put("a", 0, Some("1")))).changed);
        assert!(
            !values.apply(Some(&put("a", 1, Some("2")))).changed,
            "who has read the first one is late"
        );
        assert_eq!(values.apply(None).version, 3);
    }

    #[test]
    fn any_bytes_are_read_or_refused() {
        let mut values = ControlValues::default();
        let _ = values.apply(Some(&put("a", 0, Some("one"))));
        let _ = values.apply(Some(&put("b", 0, Some(""))));
        let bytes = values.encode();
        assert_eq!(ControlValues::decode(&bytes), Ok(values));
        let whole = |length: &usize| ControlValues::decode(&bytes[..*length]).is_ok();
        // Two of the shorter forms are valid: those that end where a value ends.
        assert_eq!((0..bytes.len()).filter(whole).count(), 2);
        assert_eq!(
            ControlValues::decode(&[FORMAT + 1]),
            Err(DecodeError::Newer(FORMAT + 1))
        );
    }
}

//! [`LogDocument`]: one line of a task's log.

use std::fmt::{self, Write};

use crate::{
    task::{
        LogLine,
        printable::{printable, printable_line},
        redact::Secrets,
    },
    time::Timestamp,
    wire::json::{self, Object, key},
};

/// A line of a log, without characters that act on a terminal, without the values of secret fields, and without the
/// secrets of the URLs in it.
pub(crate) struct LogDocument<'a> {
    line: &'a LogLine,
    secrets: &'a Secrets,
}

impl<'a> LogDocument<'a> {
    pub(crate) const fn new(line: &'a LogLine, secrets: &'a Secrets) -> Self {
        Self { line, secrets }
    }

    /// Appends the document to `out`.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let (line, secrets) = (self.line, self.secrets);
        let mut document = Object::begin(out);
        document.number(key!("seq"), line.seq);
        document.number(key!("timestamp"), line.at.as_millis());
        document.number(key!("attempt"), line.attempt);
        document.text(key!("level"), &printable(&line.level));
        document.text(key!("target"), &printable(&line.target));
        document.text(key!("message"), &secrets.text(&printable(&line.message)));
        document.member(key!("fields"), |out| {
            out.push(b'{');
            for (index, (name, value)) in line.fields.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                json::text(out, &printable(name));
                out.push(b':');
                json::text(out, &secrets.value(name, &printable(value)));
            }
            out.push(b'}');
        });
        document.end();
    }
}

/// For people: time in UTC, attempt, level, target, message and fields, always on one line.
impl fmt::Display for LogDocument<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (line, secrets) = (self.line, self.secrets);
        write!(
            f,
            "{} #{} {:>5} {}: {}",
            Utc(line.at),
            line.attempt,
            printable_line(&line.level),
            printable_line(&line.target),
            printable_line(&secrets.text(&printable(&line.message)))
        )?;
        for (name, value) in &line.fields {
            let value = printable(value);
            let value = secrets.value(name, &value);
            write!(f, " {}={}", printable_line(name), printable_line(&value))?;
        }
        f.write_char('\n')
    }
}

/// A time in UTC, displayed as in RFC 3339.
struct Utc(Timestamp);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        let (seconds, millis) = (millis / 1000, millis % 1000);
        let (days, time) = (seconds / 86_400, seconds % 86_400);
        // Years begin in March here, so that the leap day is the last of its year. 146,097 days are 400 years.
        let days = days + 719_468;
        let (era, day) = (days / 146_097, days % 146_097);
        let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let day = day - (153 * month + 2) / 5 + 1;
        let month = if month < 10 { month + 3 } else { month - 9 };
        let year = era * 400 + year + u64::from(month <= 2);
        let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> LogLine {
        LogLine {
            seq: 3,
            attempt: 2,
            fields: vec![
                ("n".into(), "1".into()),
                ("user.access_token".into(), "s3cret".into()),
                ("say".into(), "\u{1b}[1mhi\nthere".into()),
                ("to".into(), "http://h/?tok\u{1b}[1men=s3cret".into()),
            ],
            ..LogLine::new(
                Timestamp::from_millis(1_700_000_000_123),
                "INFO",
                "app::work",
                "it \"works\"\nso far with /a?token=s3cret",
            )
        }
    }

    #[test]
    fn a_line_reads_so_as_a_document_and_as_text() {
        let mut out = Vec::new();
        let (line, secrets) = (line(), Secrets::new());
        let document = LogDocument::new(&line, &secrets);
        document.write(&mut out);
        let expected = "{\"seq\":3,\"timestamp\":1700000000123,\"attempt\":2,\"level\":\"INFO\",\"target\":\"app::work\",\
                        \"message\":\"it \\\"works\\\"\\nso far with /a?token=REDACTED\",\
                        \"fields\":{\"n\":\"1\",\"user.access_token\":\"REDACTED\",\"say\":\"hi\\nthere\",\"to\":\"http://h/?token=REDACTED\"}}";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
        assert_eq!(
            document.to_string(),
            "2023-11-14T22:13:20.123Z #2  INFO app::work: it \"works\"\u{240a}so far with /a?token=REDACTED n=1 \
             user.access_token=REDACTED say=hi\u{240a}there to=http://h/?token=REDACTED\n"
        );
    }

    #[test]
    fn days_are_counted_as_the_calendar_does() {
        for (seconds, date) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399, "2000-02-28T23:59:59.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (951_868_800, "2000-03-01T00:00:00.000Z"),
            (1_735_689_599, "2024-12-31T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(Utc(Timestamp::from_millis(seconds * 1000)).to_string(), date);
        }
        // No time that a damaged record may have makes it panic.
        let _ = Utc(Timestamp::from_millis(u64::MAX)).to_string();
    }
}

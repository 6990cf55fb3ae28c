//! Checks the settings.

use std::time::Duration;

use super::{DAY, RespondAsyncBuilder};
use crate::{error::ConfigError, layer::carry::Carrier, wire::host};

impl RespondAsyncBuilder {
    /// Returns an error for the first invalid setting.
    ///
    /// # Errors
    ///
    /// A [`ConfigError`] that names the setting and the problem.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let (settings, config) = (&self.settings, &self.config);
        let refuse = |setting, problem: &'static str| Err(ConfigError::new(setting, problem));
        if config.dialects.is_empty() {
            return refuse("dialects", "with none, no request can ask for async");
        }
        if settings.concurrency == 0 {
            return refuse("concurrency", "with 0 slots no task ever runs; it must be at least 1");
        }
        if settings.limits.queued == 0 {
            return refuse(
                "queue_depth",
                "with 0 no task can wait, not even for its retry; it must be at least 1",
            );
        }
        if settings.limits.per_tenant == 0 {
            return refuse(
                "tenant_queue_depth",
                "with 0 no tenant's task can wait; it must be at least 1",
            );
        }
        let mut names = Vec::with_capacity(settings.pools.len());
        for pool in &settings.pools {
            names.push(pool.check()?);
        }
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(ConfigError::new(
                "pool",
                format!("there are two pools with the name {:?}", twice[0].as_str()),
            ));
        }
        if settings.buffer_limit < config.body_limit {
            return refuse(
                "buffer_limit",
                "it is less than body_limit, so the longest body would never fit",
            );
        }
        if settings.lease < Duration::from_millis(100) {
            return refuse(
                "lease",
                "it is renewed every third of its length, which is too often below 100 ms",
            );
        }
        if settings.crash_allowance == 0 {
            return refuse(
                "crash_allowance",
                "with 0 a task is given up as poison before its first crash; it must be at least 1",
            );
        }
        for (setting, duration) in [
            ("attempt_timeout", settings.attempt_timeout),
            ("max_age", settings.max_age),
            ("callback_patience", settings.callback_patience),
            ("store_timeout", settings.store_timeout),
            ("body_idle_timeout", config.body_idle_timeout),
            ("body_timeout", config.body_timeout),
        ] {
            if duration.is_zero() {
                return refuse(setting, "it is zero, so everything would be too late at once");
            }
        }
        // Deadlines are sums with the current time: the limit of a century avoids overflow.
        for (setting, duration) in [
            ("attempt_timeout", settings.attempt_timeout),
            ("stop_grace", settings.stop_grace),
            ("lease", settings.lease),
            ("store_timeout", settings.store_timeout),
            ("body_timeout", config.body_timeout),
            ("body_idle_timeout", config.body_idle_timeout),
            ("wait_cap", config.wait_cap),
        ] {
            if duration > 36_500 * DAY {
                return refuse(setting, "it is longer than a hundred years");
            }
        }
        for path in self.never_async.iter().chain([&self.api_base]) {
            if !path.starts_with('/') || path.ends_with('/') || path.contains(['?', '#', '%', ' ']) {
                let setting = if *path == self.api_base {
                    "api_base"
                } else {
                    "never_async"
                };
                return Err(ConfigError::new(
                    setting,
                    format!(
                        "{path:?} is not a plain path: it begins with a slash and does not end with one, as /tasks"
                    ),
                ));
            }
        }
        if let Some(url) = &self.public_url {
            let authority = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
            let good = authority.is_some_and(|a| !a.is_empty() && !a.starts_with('/') && !a.contains(['?', '#', ' ']));
            if !good || http::HeaderValue::from_str(url).is_err() {
                return Err(ConfigError::new(
                    "public_url",
                    format!("{url:?} is no http or https URL without query, as https://example.org"),
                ));
            }
        }
        for host in &self.hosts {
            let bare = host.strip_suffix('.').unwrap_or(host);
            if bare.is_empty() || host::read(host).is_none_or(|read| !read.eq_ignore_ascii_case(bare)) {
                return Err(ConfigError::new(
                    "hosts",
                    format!(
                        "{host:?} is not a host: a name or an address, without scheme, port and wildcard, as tasks.example.org"
                    ),
                ));
            }
        }
        settings.hooks.check()?;
        let mut names: Vec<_> = self.carriers.iter().map(Carrier::name).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(ConfigError::new("carry", format!("{:?} is carried twice", twice[0])));
        }
        Ok(())
    }
}

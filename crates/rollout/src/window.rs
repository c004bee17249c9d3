//! Maintenance windows, in UTC.

use std::str::FromStr;
use std::time::Duration;

use bulkhead_kataconfig::{Window, parse_duration};
use croner::Cron;
use jiff::{Timestamp, tz::TimeZone};

/// Windows that can be read.
#[derive(Debug, Clone, Default)]
pub(crate) struct Windows(Vec<(Cron, Duration)>);

impl Windows {
    /// Reads windows; the error is the one that cannot be read.
    pub(crate) fn read(windows: &[Window]) -> Result<Self, String> {
        let read = |window: &Window| {
            // Five fields: seconds and years are extensions nobody asked for.
            let plain = window.cron.split_whitespace().count() == 5 && window.cron.len() <= 100;
            let cron = plain.then(|| Cron::from_str(&window.cron).ok()).flatten();
            cron.zip(parse_duration(&window.duration))
                .ok_or_else(|| format!("{} for {}", window.cron, window.duration))
        };
        windows.iter().map(read).collect::<Result<_, _>>().map(Self)
    }

    /// Whether one is open; always, when there are none.
    pub(crate) fn open(&self, now: Timestamp) -> bool {
        let begun = |(cron, duration): &(Cron, Duration)| {
            let time = now.to_zoned(TimeZone::UTC);
            cron.find_previous_occurrence(&time, true)
                .is_ok_and(|start| now.duration_since(start.timestamp()).unsigned_abs() < *duration)
        };
        self.0.is_empty() || self.0.iter().any(begun)
    }

    /// When the next one opens.
    pub(crate) fn next(&self, now: Timestamp) -> Option<Timestamp> {
        let time = now.to_zoned(TimeZone::UTC);
        let next = |(cron, _): &(Cron, Duration)| cron.find_next_occurrence(&time, false).ok();
        self.0
            .iter()
            .filter_map(next)
            .map(|at| at.timestamp())
            .min()
    }
}

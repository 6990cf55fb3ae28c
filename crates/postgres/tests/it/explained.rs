//! The plans of the statements that the server ran, with the rows of each node, from `auto_explain`.

use std::{
    cell::Cell,
    fs::File,
    io::{Read, Seek, SeekFrom},
};

use serde_json::Value;
use servers::Postgres;

/// The settings with which a server must be started.
pub(crate) const SETTINGS: &str = "shared_preload_libraries = 'auto_explain'\nauto_explain.log_min_duration = 0\n\
    auto_explain.log_analyze = on\nauto_explain.log_timing = off\nauto_explain.log_format = json\n\
    log_line_prefix = '%a|'\nfsync = off\nfull_page_writes = off\n";

/// Tables that grow with the tasks.
const LARGE: [&str; 5] = ["task", "request", "outbox", "log", "key"];

/// The log of a server. Each reading continues where the last one ended.
pub(crate) struct Log {
    file: File,
    read: Cell<u64>,
}

/// A statement, and its plan.
pub(crate) struct Explained {
    pub(crate) text: String,
    plan: Value,
}

impl Log {
    pub(crate) fn of(server: &Postgres) -> Self {
        Self {
            file: File::open(server.log()).unwrap(),
            read: Cell::new(0),
        }
    }

    /// The statements that sessions with this name have run since the last call. The server writes the log before it
    /// answers.
    pub(crate) fn statements(&self, session: &str) -> Vec<Explained> {
        let (mut file, mut log) = (&self.file, String::new());
        let _ = file.seek(SeekFrom::Start(self.read.get())).unwrap();
        let read = file.read_to_string(&mut log).unwrap();
        self.read.set(self.read.get() + read as u64);
        let begin = format!("{session}|LOG:  duration: ");
        let plans = log.split(&begin).filter_map(|entry| {
            let (_, plan) = entry.split_once(" plan:\n")?;
            // Continuation lines are indented.
            let plan: Vec<&str> = plan.lines().take_while(|line| line.starts_with('\t')).collect();
            let explained: Value = serde_json::from_str(&plan.join("\n")).unwrap();
            Some(Explained {
                text: explained["Query Text"].as_str().unwrap().to_owned(),
                plan: explained["Plan"].clone(),
            })
        });
        plans.collect()
    }
}

impl Explained {
    /// How many rows and index entries it read from large tables.
    pub(crate) fn rows_read(&self) -> f64 {
        let mut read = 0.0;
        each(&self.plan, &mut |node| {
            if is_read(node) {
                let of = |name: &str| node[name].as_f64().unwrap_or_default();
                let each_time = of("Actual Rows") + of("Rows Removed by Filter") + of("Rows Removed by Index Recheck");
                read += each_time * of("Actual Loops");
            }
        });
        read
    }

    /// The large table that it read with a sequential scan, which is wrong even for few rows.
    pub(crate) fn goes_through(&self) -> Option<String> {
        let mut found = None;
        each(&self.plan, &mut |node| {
            let table = node["Relation Name"].as_str().unwrap_or_default();
            if node["Node Type"] == "Seq Scan" && LARGE.contains(&table) {
                found = Some(table.to_owned());
            }
        });
        found
    }

    /// The largest number of rows that it sorted.
    pub(crate) fn rows_sorted(&self) -> f64 {
        let mut most = 0.0;
        each(&self.plan, &mut |node| {
            if node["Node Type"].as_str().is_some_and(|is| is.ends_with("Sort")) {
                let of: f64 = node["Plans"][0]["Actual Rows"].as_f64().unwrap_or_default();
                most = of.max(most);
            }
        });
        most
    }

    /// How many blocks it read from the cache, if the server reports it.
    pub(crate) fn blocks_hit(&self) -> f64 {
        self.plan["Shared Hit Blocks"].as_f64().unwrap_or_default()
    }

    pub(crate) fn shown(&self) -> String {
        format!("{}\n{:#}", self.text, self.plan)
    }
}

fn is_read(node: &Value) -> bool {
    match node["Node Type"].as_str() {
        Some("Bitmap Index Scan") => true,
        Some(scan) if scan.ends_with("Scan") => node["Relation Name"]
            .as_str()
            .is_some_and(|table| LARGE.contains(&table)),
        _ => false,
    }
}

fn each(node: &Value, visit: &mut impl FnMut(&Value)) {
    visit(node);
    for below in node["Plans"].as_array().into_iter().flatten() {
        each(below, visit);
    }
}

//! Checks the rule of the layers: imports only go down. Reads every source file, and reports each import that goes up.
//!
//! ```text
//! floor 4  layer/ api/ console/ wire/    HTTP comes in, answers go out
//! floor 3  engine/              decides and drives; knows ports only
//! floor 2  store/* hook/* probe/*   adapters, each on its own
//! floor 1  the ports: the files that adapters are written against
//! floor 0  task/ time error     plain data
//! beside   testing/ guide/      may look at all floors; nothing looks at them
//! ```

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Types that belong to one adapter, by the names under which a port's module exports them.
const ADAPTERS: [&str; 6] = [
    "Capture",
    "MemoryStore",
    "MemoryStoreBuilder",
    "MetricsProbe",
    "TracingProbe",
    "AppPath",
];

/// Folders in a port's folder that belong to the port itself.
const PORT_FOLDERS: [&str; 3] = ["store/kit/", "store/ledger/", "store/operations/"];

/// Files in a port's folder that belong to the port itself, besides those of the folders above.
const PORT_FILES: [&str; 18] = [
    "store/mod",
    "store/answers",
    "store/change",
    "store/enlisted",
    "store/error",
    "store/forward",
    "store/ledger",
    "store/news",
    "store/reply",
    "store/row",
    "hook/mod",
    "hook/closure",
    "probe/log",
    "probe/mod",
    "hook/channel",
    "hook/format",
    "hook/local",
    "hook/target",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Floor {
    Data,
    Port,
    Adapter,
    Engine,
    Edge,
    Beside,
}

/// The floor of a file, by its path below `src` without the extension.
fn floor_of_file(path: &str) -> Option<Floor> {
    let room = path.split('/').next().unwrap_or(path);
    Some(match room {
        "task" | "time" | "error" => Floor::Data,
        "store" | "hook" | "probe" if PORT_FILES.contains(&path) => Floor::Port,
        "store" if PORT_FOLDERS.iter().any(|folder| path.starts_with(folder)) => Floor::Port,
        "store" | "hook" | "probe" => Floor::Adapter,
        "engine" => Floor::Engine,
        "layer" | "api" | "console" | "wire" => Floor::Edge,
        "testing" | "guide" => Floor::Beside,
        "lib" => return None,
        room => panic!("src/{room} stands on no floor: name one in tests/it/floors.rs"),
    })
}

/// The floor of an import, by its path below the crate.
fn floor_of_import(path: &str) -> Floor {
    let parts: Vec<_> = path.split("::").collect();
    match parts[0] {
        "task" | "time" | "error" | "BoxError" | "ConfigError" => Floor::Data,
        "store" | "hook" | "probe" => match parts.get(1) {
            Some(second)
                if ["capture", "memory", "metrics", "tracing", "path", "webhook"].contains(second)
                    || ADAPTERS.contains(second) =>
            {
                Floor::Adapter
            }
            _ => Floor::Port,
        },
        "forward_store" | "__forward" => Floor::Port,
        "engine" => Floor::Engine,
        "layer" | "api" | "console" | "wire" => Floor::Edge,
        // `__promises` is the list that the conformance macro expands to.
        "testing" | "guide" | "__promises" => Floor::Beside,
        other => panic!("crate::{other} is imported, which stands on no floor: name its module instead"),
    }
}

/// Whether a file may import this.
fn may_import(file: &str, floor: Floor, import: &str) -> bool {
    let imported = floor_of_import(import);
    match floor {
        Floor::Beside => true,
        // The files of an adapter may import each other, but not a sibling adapter.
        Floor::Adapter if imported == Floor::Adapter => {
            let own = file.split('/').nth(1).unwrap_or_default();
            import.split("::").nth(1) == Some(own)
        }
        // Ports export their adapters by `mod` and `pub use self::`, and may not name them elsewhere.
        _ if imported == Floor::Adapter => false,
        _ => imported <= floor,
    }
}

/// Every path below `crate::` in the code, with groups in braces expanded. Comments and tests are left out.
fn imports(source: &str) -> Vec<String> {
    let code: String = source
        .lines()
        .map(str::trim_start)
        .take_while(|line| !line.starts_with("#[cfg(test)]"))
        .filter(|line| !line.starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n");
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let boundary = code[..at].chars().next_back();
        if boundary.is_none_or(|c| !c.is_alphanumeric() && c != '_') {
            tree(&code[at + "crate::".len()..], "", &mut found);
        }
    }
    found
}

/// Reads one path or one group of paths. Answers with the length that it read.
fn tree(text: &str, prefix: &str, found: &mut Vec<String>) -> usize {
    if let Some(group) = text.strip_prefix('{') {
        let mut at = 1;
        loop {
            let rest = &text[at..];
            at += rest.len() - rest.trim_start_matches([' ', '\n', ',']).len();
            match text[at..].chars().next() {
                Some('}') => return at + 1,
                Some(_) => at += tree(&text[at..], prefix, found).max(1),
                None => return group.len() + 1,
            }
        }
    }
    let end = text
        .find(|c: char| !c.is_alphanumeric() && c != '_')
        .unwrap_or(text.len());
    let path = format!("{prefix}{}", &text[..end]);
    if let Some(rest) = text[end..].strip_prefix("::") {
        return end + 2 + tree(rest, &format!("{path}::"), found);
    }
    found.push(path);
    end
}

fn climbs(file: &str, source: &str) -> Vec<String> {
    let Some(floor) = floor_of_file(file) else {
        return Vec::new();
    };
    let climbing = imports(source)
        .into_iter()
        .filter(|import| !may_import(file, floor, import));
    climbing
        .map(|import| format!("src/{file}.rs imports {import}"))
        .collect()
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("src can be read") {
        let path = entry.expect("src can be read").path();
        match path.is_dir() {
            true => sources(&path, found),
            false if path.extension().is_some_and(|ending| ending == "rs") => found.push(path),
            false => {}
        }
    }
}

#[test]
fn imports_only_go_down() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 40, "only {} files were found", files.len());
    let climbs: Vec<_> = files
        .iter()
        // Test-only files may import anything.
        .filter(|path| {
            let below = path.strip_prefix(&root).expect("below src").with_extension("");
            !below.iter().any(|name| name == "tests")
        })
        .flat_map(|path| {
            let file = path.strip_prefix(&root).expect("below src").with_extension("");
            let source = fs::read_to_string(path).expect("a source file can be read");
            climbs(&file.to_string_lossy().replace('\\', "/"), &source)
        })
        .collect();
    assert!(climbs.is_empty(), "{}", climbs.join("\n"));
}

/// The parts of the engine, from the bottom up: a part may use those below it. A file not listed here is below them
/// all.
const PARTS: [&[&str]; 4] = [
    &["attempts", "outbox"],
    &["intake"],
    &["duties"],
    &["mod", "shutdown", "tasks"],
];

/// What the engine's module re-exports from its parts.
const HANDED_OUT: [(&str, &str); 4] = [
    (
        "attempts",
        "Attempts AnswerWriter BodyBuffer BodyEnd Entry Replayed TaskContext AttemptEnd Backoff DoNotRetry RetryPolicy Verdict",
    ),
    ("outbox", "Outbox Hooks"),
    ("intake", "Intake Accepting Unaccepted Budget Reserved"),
    ("tasks", "Engine Tasks WeakTasks Alive Submission"),
];

/// The part that a name belongs to.
fn part_of(name: &str) -> &str {
    let of = |names: &str| names.split(' ').any(|handed_out| handed_out == name);
    let handed_out = HANDED_OUT.iter().find(|(_, names)| of(names));
    handed_out.map_or(name, |(part, _)| part)
}

/// The height of a part of the engine.
fn height(part: &str) -> usize {
    PARTS
        .iter()
        .position(|parts| parts.contains(&part))
        .map_or(0, |at| at + 1)
}

fn part_climbs(file: &str, source: &str) -> Vec<String> {
    // The settings of all parts are in one file.
    let Some(part) = file.strip_prefix("engine/").filter(|part| *part != "settings") else {
        return Vec::new();
    };
    let part = part.split('/').next().unwrap_or(part);
    let climbing = imports(source).into_iter().filter(|import| {
        let Some(imported) = import.strip_prefix("engine::") else {
            return false;
        };
        let imported = part_of(imported.split("::").next().unwrap_or(imported));
        let sibling = height(imported) == height(part) && imported != part && height(part) > 0;
        height(imported) > height(part) || sibling && height(part) < PARTS.len()
    });
    let mut climbs: Vec<_> = climbing
        .map(|import| format!("src/{file}.rs imports {import}"))
        .collect();
    if source.contains("super::super::") {
        climbs.push(format!("src/{file}.rs imports by super::super"));
    }
    climbs
}

#[test]
fn parts_of_the_engine_know_those_below_them() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root.join("engine"), &mut files);
    assert!(files.len() > 40, "only {} files were found", files.len());
    let climbs: Vec<_> = files
        .iter()
        .flat_map(|path| {
            let file = path.strip_prefix(&root).expect("below src").with_extension("");
            let source = fs::read_to_string(path).expect("a source file can be read");
            part_climbs(&file.to_string_lossy().replace('\\', "/"), &source)
        })
        .collect();
    assert!(climbs.is_empty(), "{}", climbs.join("\n"));
    for (file, source) in [
        ("engine/outbox/deliver", "use crate::engine::intake::Intake;"),
        ("engine/outbox/deliver", "use crate::engine::attempts::Attempts;"),
        ("engine/core", "use crate::engine::attempts::Attempts;"),
        ("engine/outbox/deliver", "use crate::engine::Intake;"),
        ("engine/attempts/run", "use super::super::intake::Intake;"),
        ("engine/intake/accept", "use crate::engine::{Engine, slots::Slots};"),
    ] {
        assert_eq!(part_climbs(file, source).len(), 1, "{file}: {source}");
    }
}

/// Names that a store must not use: a store keeps rows, and makes no decisions.
const DECISIONS: [&str; 4] = ["lifecycle", "Step::", "TaskState::", "Outcome::"];

fn decisions(source: &str) -> Vec<&str> {
    let code = source.lines().map(str::trim_start);
    let code = code.take_while(|line| !line.starts_with("#[cfg(test)]"));
    let code = code.filter(|line| !line.starts_with("//"));
    // The list of all states is not a decision.
    code.filter(|line| {
        DECISIONS
            .iter()
            .any(|word| line.replace("TaskState::ALL", "").contains(word))
    })
    .collect()
}

#[test]
fn no_store_names_a_step_of_a_life() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in [
        "src/store/memory",
        "crates/redb/src",
        "crates/postgres/src",
        "examples/custom_store",
    ] {
        sources(&root.join(folder), &mut files);
    }
    files.retain(|path| !path.ends_with("tests.rs"));
    assert!(files.len() > 20, "only {} files were found", files.len());
    for path in files {
        let source = fs::read_to_string(&path).expect("a source file can be read");
        assert_eq!(decisions(&source), [""; 0], "{}", path.display());
    }
    assert_eq!(decisions("// lifecycle\nif state == TaskState::Running {").len(), 1);
}

#[test]
fn a_climb_is_found_however_it_is_written() {
    for (file, source) in [
        ("task/id", "use crate::engine::Tasks;"),
        ("store/mod", "use crate::{task::Scope, engine::{node::{Node}}};"),
        ("engine/attempts/run", "use crate::layer::RequestBody;"),
        ("engine/attempts/run", "fn f(store: &crate::store::MemoryStore) {}"),
        (
            "engine/attempts/run",
            "use crate::{\n    store::{\n        Claim, MemoryStore, \n},\n};",
        ),
        ("probe/metrics", "use crate::probe::tracing::TracingProbe;"),
        ("store/memory/shard", "use crate::engine::Tasks;"),
        ("layer/accept", "use crate::testing::ManualClock;"),
    ] {
        assert_eq!(climbs(file, source).len(), 1, "{file}: {source}");
    }
    for (file, source) in [
        (
            "engine/attempts/run",
            "use crate::{store::TaskStore, task::{Scope, lifecycle::Stop}};",
        ),
        ("store/memory/shard", "use crate::store::memory::queue::Queue;"),
        ("engine/attempts/run", "// use crate::layer::RequestBody;"),
        (
            "engine/attempts/run",
            "#[cfg(test)]\nmod tests { use crate::layer::RequestBody; }",
        ),
        ("testing/fault", "use crate::store::MemoryStore;"),
    ] {
        assert_eq!(climbs(file, source), [""; 0], "{file}: {source}");
    }
}

//! Checks the table in `tests/README.md`: every test that it names must exist.

use std::{collections::BTreeSet, fs, path::Path};

/// The rows of the table: a scenario, and the tests that show it as `file::name`.
fn rows(page: &str) -> Vec<(&str, Vec<&str>)> {
    let table = page
        .split("## Which test shows what")
        .nth(1)
        .expect("the page has the table");
    let rows = table.lines().filter_map(|line| {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let scenario = cells.get(1).filter(|cell| cell.starts_with('S'))?;
        let tests = cells.get(3)?.split(", ").map(|test| test.trim_matches('`'));
        Some((*scenario, tests.collect()))
    });
    rows.collect()
}

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The folders of test files. If two have a file of this name, the first one counts.
const PLACES: [&str; 3] = ["tests/it", "crates/redb/tests/it", "lab/tests/it"];

fn place_of(file: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut places = PLACES.iter().map(|folder| format!("{folder}/{file}.rs"));
    let place = places.find(|place| root.join(place).exists());
    place.unwrap_or_else(|| panic!("there is no file {file} of tests"))
}

#[test]
fn every_test_in_the_table_exists() {
    let page = read("tests/README.md");
    let rows = rows(&page);
    assert!(rows.len() > 40, "only {} rows were found", rows.len());
    for (scenario, tests) in &rows {
        assert!(!tests.is_empty(), "{scenario} is shown by nothing");
        for test in tests {
            let (file, name) = test.rsplit_once("::").expect("a test is named file::name");
            let source = match file.strip_prefix("models::") {
                Some(model) => read(&format!("lab/tests/models/{model}.rs")),
                None => read(&place_of(file)),
            };
            assert!(
                source.contains(&format!("fn {name}(")),
                "{scenario}: there is no {test}"
            );
        }
    }
    let named: BTreeSet<_> = rows.iter().map(|(scenario, _)| *scenario).collect();
    assert_eq!(named.len(), rows.len(), "a scenario has two rows");
}

//! Figures that are printed on two pages are the same, and the benchmarks that they name exist.

use std::{collections::BTreeSet, fs, path::Path};

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The rows of the table with these columns.
fn table<'a>(page: &'a str, columns: &str) -> Vec<&'a str> {
    let rows = page.lines().skip_while(|line| !line.starts_with(columns));
    let rows: Vec<_> = rows.take_while(|line| line.starts_with('|')).collect();
    assert!(rows.len() > 10, "the page has the table of figures");
    rows
}

#[test]
fn the_figures_of_postgres_are_the_same_in_the_guide_and_in_the_readme_of_the_crate() {
    let columns = "| what | beside | ours | ratio | target | command";
    let (guide, readme) = (read("src/guide/postgres.md"), read("crates/postgres/README.md"));
    assert_eq!(table(&guide, columns), table(&readme, columns));

    let main = read("lab/benches/postgres/main.rs");
    let marker = "--bench postgres -- ";
    let named = guide.split(marker).skip(1);
    let named: BTreeSet<_> = named.filter_map(|rest| rest.split('`').next()).collect();
    assert!(named.len() > 5, "the table names its benchmarks: {named:?}");
    for name in named {
        assert!(main.contains(&format!("(\"{name}\", ")), "there is no benchmark {name}");
    }
}

#[test]
fn the_benchmarks_of_the_page_of_figures_exist() {
    let page = read("src/guide/figures.md");
    for row in table(&page, "| what | beside | ours | ratio | `NAME` |")
        .into_iter()
        .skip(2)
    {
        let name = row.rsplit('|').nth(1).expect("a row ends with its benchmark");
        let name = name.trim().trim_matches('`');
        let places = ["benches/NAME.rs", "lab/benches/NAME/main.rs", "NAME/Cargo.toml"];
        let mut places = places.iter().map(|place| place.replace("NAME", name));
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        assert!(
            places.any(|place| root.join(place).exists()),
            "there is no benchmark {name}: {row}"
        );
    }
}

//! Settings as TOML for people: what is set and who set it.

use std::fmt::Write as _;

use super::reader::{Given, Reader};
use super::{Config, Loaded, Sources};

impl Loaded {
    /// What was given, or with `effective` everything, as TOML. Secrets are masked.
    #[must_use]
    pub fn print(&self, effective: bool) -> String {
        let mut printed = String::new();
        let mut open = "";
        for given in &self.given {
            let (section, key) = given.path.rsplit_once('.').unwrap_or(("", given.path));
            let (Some(shown), true) = (&given.shown, effective || given.source.is_some()) else { continue };
            if section != open {
                let _ = writeln!(printed, "{}[{section}]", if printed.is_empty() { "" } else { "\n" });
                open = section;
            }
            let source = given.source.as_deref().unwrap_or("default");
            let _ = writeln!(printed, "{key} = {shown} # {source}");
        }
        if printed.is_empty() {
            printed.push_str("# nothing given: all settings have their defaults; see --effective\n");
        }
        printed
    }
}

/// All settings with their defaults, as a page for people.
#[must_use]
pub fn page() -> String {
    let figment = figment::Figment::new();
    let mut reader = Reader::new(&figment, Vec::new());
    Config::read(&mut reader, &Sources::default());
    let (given, _) = reader.finish();
    let mut page = String::from(
        "# Settings of the control plane\n\nA flag wins over the environment, that over the TOML file (`--config`), that over the default.\n\
         A setting `limits.connections` is `connections` in section `[limits]` of the file and `HIVE_LIMITS__CONNECTIONS` in the\n\
         environment; `HIVE_LOG` is short for `HIVE_LOG__FILTER`. `hive-control-plane config print --effective` shows what\n\
         holds and who set it. Times: `500ms`, `30s`, `10m`, `24h`, `1d`. Sizes: `4MiB`, `256KiB`, bytes.\n\n\
         Written from `control-plane/src/config/sections.rs`; `UPDATE=1 cargo test -p hive-control-plane config` rewrites it.\n\n\
         | setting | default | meaning |\n|---|---|---|\n",
    );
    for Given { path, about, shown, .. } in given {
        let default = shown.map_or("none".to_owned(), |shown| format!("`{shown}`"));
        let _ = writeln!(page, "| `{path}` | {default} | {about} |");
    }
    page
}

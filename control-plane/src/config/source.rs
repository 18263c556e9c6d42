//! Where settings come from, and in which order they win. Knows no setting by name.

use std::path::{Path, PathBuf};

use figment::providers::{Format as _, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Error, Figment, Metadata, Profile, Provider, Source};

use super::fault::Fault;
use super::flags::Flags;

/// Name of the environment's layer; unknown variables are judged more mildly than unknown fields.
pub(super) const ENVIRONMENT: &str = "environment";
const PREFIX: &str = "HIVE_";

/// Everything settings can come from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    flags: Vec<(&'static str, &'static str, String)>,
    environment: Vec<(String, String)>,
    file: Option<(PathBuf, Result<String, String>)>,
}

impl Sources {
    /// Reads flags, this process's environment and the file that the flags name.
    #[must_use]
    pub fn of_process(flags: &Flags) -> Self {
        let environment = std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
        Self::new(flags, environment.collect())
    }

    /// Uses the environment given.
    #[must_use]
    pub fn new(flags: &Flags, environment: Vec<(String, String)>) -> Self {
        let read = |path: &PathBuf| (path.clone(), std::fs::read_to_string(path).map_err(|e| e.to_string()));
        Self { flags: flags.given(), environment, file: flags.config.as_ref().map(read) }
    }

    /// Uses this file in place of the one that the flags name.
    #[must_use]
    pub fn with_file(self, path: PathBuf, text: String) -> Self {
        Self { file: Some((path, Ok(text))), ..self }
    }

    /// A variable of the environment that is set and not empty.
    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        self.environment.iter().find(|(key, value)| key == name && !value.is_empty()).map(|(_, value)| value.as_str())
    }

    /// Merges the layers; a file that cannot be used is a fault and counts as empty.
    pub(super) fn figment(&self, faults: &mut Vec<Fault>) -> Figment {
        let mut figment = Figment::new();
        if let Some((path, text)) = &self.file {
            figment = figment.merge(file_layer(path, text, faults));
        }
        figment.merge(self.environment_layer()).merge(self.flag_layer())
    }

    fn environment_layer(&self) -> Layer {
        let mut dict = Dict::new();
        for (name, value) in &self.environment {
            let Some(name) = name.strip_prefix(PREFIX) else { continue };
            // The usual short name of the log filter; `log` itself is a section.
            let path = if name == "LOG" { "log.filter".to_owned() } else { name.to_lowercase().replace("__", ".") };
            let value = value.parse::<Value>().unwrap_or_else(|never| match never {});
            put(&mut dict, &path, value);
        }
        let name = |_: &Profile, keys: &[&str]| format!("{PREFIX}{}", keys.join("__").to_uppercase());
        Layer { metadata: Metadata::named(ENVIRONMENT).interpolater(name), dict }
    }

    fn flag_layer(&self) -> Layer {
        let mut dict = Dict::new();
        for (path, _, value) in &self.flags {
            put(&mut dict, path, Value::from(value.clone()));
        }
        let names: Vec<_> = self.flags.iter().map(|(path, flag, _)| (*path, *flag)).collect();
        let name = move |_: &Profile, keys: &[&str]| {
            let path = keys.join(".");
            names.iter().find(|(known, _)| *known == path).map_or(path.clone(), |(_, flag)| (*flag).to_owned())
        };
        Layer { metadata: Metadata::named("flag").interpolater(name), dict }
    }
}

fn file_layer(path: &Path, text: &Result<String, String>, faults: &mut Vec<Fault>) -> Layer {
    let parsed = text
        .as_ref()
        .map_err(|problem| format!("cannot be read: {problem}"))
        .and_then(|text| Toml::from_str::<Dict>(text).map_err(|e| format!("is not TOML: {e}")));
    let dict = parsed.unwrap_or_else(|problem| {
        let field = path.display().to_string();
        faults.push(Fault { field, value: None, source: "--config".to_owned(), problem });
        Dict::new()
    });
    Layer { metadata: Metadata::from("file", Source::File(path.to_owned())), dict }
}

fn put(dict: &mut Dict, path: &str, value: Value) {
    let (first, rest) = path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)));
    match rest {
        None => {
            // A section set by a longer name stays: `HIVE_LIMITS=1` must not hide `HIVE_LIMITS__X`.
            dict.entry(first.to_owned()).or_insert(value);
        }
        Some(rest) => {
            let slot = dict.entry(first.to_owned()).or_insert_with(|| Value::from(Dict::new()));
            if !matches!(slot, Value::Dict(..)) {
                *slot = Value::from(Dict::new());
            }
            if let Value::Dict(_, inner) = slot {
                put(inner, rest, value);
            }
        }
    }
}

struct Layer {
    metadata: Metadata,
    dict: Dict,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        self.metadata.clone()
    }

    fn data(&self) -> Result<Map<Profile, Dict>, Error> {
        Ok(Map::from([(Profile::Default, self.dict.clone())]))
    }
}

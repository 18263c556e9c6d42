//! Takes settings out of the merged layers one by one and collects what is wrong.

use std::ops::RangeInclusive;

use figment::value::{Dict, Value};
use figment::{Figment, Metadata, Profile, Provider as _, Source};

use super::fault::Fault;
use super::source::ENVIRONMENT;
use super::value::Setting;

/// A setting as it ended up, for printing.
pub(super) struct Given {
    pub(super) path: &'static str,
    pub(super) about: &'static str,
    /// As TOML, masked if secret; none if it has no value.
    pub(super) shown: Option<String>,
    /// None: the default.
    pub(super) source: Option<String>,
}

pub(super) struct Reader<'a> {
    figment: &'a Figment,
    given: Vec<Given>,
    faults: Vec<Fault>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(figment: &'a Figment, faults: Vec<Fault>) -> Self {
        Self { figment, given: Vec::new(), faults }
    }

    /// The setting, or its default if nobody gave it or it is faulty.
    pub(super) fn take<T: Setting>(&mut self, path: &'static str, about: &'static str, default: T) -> T {
        self.take_checked(path, about, Some(default.clone()), |_| Ok(())).unwrap_or(default)
    }

    /// A setting without a default.
    pub(super) fn take_optional<T: Setting>(&mut self, path: &'static str, about: &'static str) -> Option<T> {
        self.take_checked(path, about, None, |_| Ok(()))
    }

    /// A setting that must lie within bounds.
    pub(super) fn take_in<T: Setting + PartialOrd>(
        &mut self,
        path: &'static str,
        about: &'static str,
        default: T,
        bounds: RangeInclusive<T>,
    ) -> T {
        let check = |value: &T| {
            let (low, high) = (bounds.start(), bounds.end());
            if bounds.contains(value) {
                Ok(())
            } else {
                Err(format!("must be between {} and {}", low.show(), high.show()))
            }
        };
        self.take_checked(path, about, Some(default.clone()), check).unwrap_or(default)
    }

    fn take_checked<T: Setting>(
        &mut self,
        path: &'static str,
        about: &'static str,
        default: Option<T>,
        check: impl Fn(&T) -> Result<(), String>,
    ) -> Option<T> {
        let found = self.figment.find_value(path).ok();
        let source = found.as_ref().map(|value| self.source_of(value, path));
        let read = found.as_ref().map(|value| {
            let read = T::read(value).ok_or_else(|| format!("must be {}", T::EXPECTED));
            read.and_then(|setting| check(&setting).map(|()| setting))
        });
        let setting = match read {
            Some(Ok(setting)) => Some(setting),
            Some(Err(problem)) => {
                let value = found.as_ref().map(|value| if T::SECRET { MASK.to_owned() } else { text_of(value) });
                self.fault(path, value, source.clone(), problem);
                None
            }
            None => default,
        };
        let shown = setting.as_ref().map(|setting| if T::SECRET { MASK.to_owned() } else { setting.show() });
        self.given.push(Given { path, about, shown, source });
        setting
    }

    /// Reports a fault of a setting already taken, with the value it has now.
    pub(super) fn refuse(&mut self, path: &'static str, problem: impl Into<String>) {
        let given = self.given.iter().find(|given| given.path == path);
        let (value, source) = given.map_or((None, None), |given| (given.shown.clone(), given.source.clone()));
        // A value that could not be read was reported already.
        if value.is_some() || source.is_none() {
            self.fault(path, value, source, problem.into());
        }
    }

    /// Reports a setting that is needed and was not given.
    pub(super) fn lack<T>(&mut self, path: &'static str, problem: &str) -> Option<T> {
        // A value that could not be read was reported already.
        if !self.faults.iter().any(|fault| fault.field == path) {
            self.fault(path, None, None, problem.to_owned());
        }
        None
    }

    fn fault(&mut self, path: &str, value: Option<String>, source: Option<String>, problem: String) {
        let source = source.unwrap_or_else(|| "default".to_owned());
        self.faults.push(Fault { field: path.to_owned(), value, source, problem });
    }

    /// Reports every field given that is no setting. Of the environment only those within our
    /// sections: other programs of Hive read the same prefix.
    pub(super) fn refuse_unknown(&mut self) {
        let data = self.figment.data().unwrap_or_default();
        if let Some(dict) = data.get(&Profile::Default) {
            self.refuse_unknown_in(dict, "");
        }
    }

    fn refuse_unknown_in(&mut self, dict: &Dict, prefix: &str) {
        for (key, value) in dict {
            let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
            let known = self.given.iter().any(|given| given.path == path);
            let section =
                self.given.iter().any(|given| given.path.strip_prefix(&path).is_some_and(|rest| rest.starts_with('.')));
            let ours = !prefix.is_empty() || !self.is_environment(value);
            match value {
                _ if known => {}
                Value::Dict(_, inner) if section || ours => self.refuse_unknown_in(inner, &path),
                _ if section => self.refuse_unknown_field(&path, value, "is a section, not a value"),
                _ if ours => self.refuse_unknown_field(&path, value, "there is no such setting"),
                _ => {}
            }
        }
    }

    fn refuse_unknown_field(&mut self, path: &str, value: &Value, problem: &str) {
        let source = Some(self.source_of(value, path));
        // Nobody knows what it is, so it may be a secret.
        self.fault(path, None, source, problem.to_owned());
    }

    fn is_environment(&self, value: &Value) -> bool {
        match value {
            // A section has no tag of its own; its first leaf tells.
            Value::Dict(_, inner) => inner.values().next().is_some_and(|first| self.is_environment(first)),
            leaf => self.metadata(leaf).is_some_and(|metadata| metadata.name == ENVIRONMENT),
        }
    }

    fn metadata(&self, value: &Value) -> Option<&Metadata> {
        self.figment.get_metadata(value.tag())
    }

    fn source_of(&self, value: &Value, path: &str) -> String {
        let Some(metadata) = self.metadata(value) else { return "unknown".to_owned() };
        if let Some(file) = metadata.source.as_ref().and_then(Source::file_path) {
            return format!("file {}", file.display());
        }
        let keys: Vec<_> = path.split('.').collect();
        metadata.interpolate(&Profile::Default, &keys)
    }

    pub(super) fn finish(self) -> (Vec<Given>, Vec<Fault>) {
        (self.given, self.faults)
    }
}

/// What stands for a secret.
const MASK: &str = "\"***\"";

fn text_of(value: &Value) -> String {
    match value {
        Value::String(_, text) => format!("{text:?}"),
        Value::Char(_, c) => format!("{:?}", c.to_string()),
        Value::Bool(_, b) => b.to_string(),
        Value::Num(_, number) => number
            .to_i128()
            .map(|n| n.to_string())
            .or_else(|| number.to_u128_lossy().filter(|_| number.to_f64().is_none()).map(|n| n.to_string()))
            .or_else(|| number.to_f64().map(|n| n.to_string()))
            .unwrap_or_default(),
        Value::Empty(..) => "nothing".to_owned(),
        Value::Array(_, items) => format!("[{}]", items.iter().map(text_of).collect::<Vec<_>>().join(", ")),
        Value::Dict(..) => "a section".to_owned(),
    }
}

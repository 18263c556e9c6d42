//! The argv template of a `command` agent: placeholders in arguments, no shell.
//!
//! `{capability}` (the task's first), `{task_id}`, `{attempt}` and `{payload_file}` are replaced;
//! `{{` and `}}` stand for braces. A value never becomes more than a part of its one argument.

/// Values for the placeholders.
#[derive(Clone, Copy, Debug)]
pub struct Values<'a> {
    /// The first capability the task asks for.
    pub capability: &'a str,
    /// The task, a UUID.
    pub task_id: &'a str,
    /// Number of the attempt.
    pub attempt: u32,
    /// Path of a file that holds the payload.
    pub payload_file: &'a str,
}

/// Why a template is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No such placeholder.
    #[error(
        "argument {at} has the unknown placeholder {{{name}}}; there are {{capability}}, {{task_id}}, {{attempt}} and {{payload_file}}"
    )]
    Unknown {
        /// Index of the argument.
        at: usize,
        /// What stood between the braces.
        name: String,
    },
    /// A brace without its partner.
    #[error("argument {at} has a single brace; write {{{{ or }}}} for a brace itself")]
    Brace {
        /// Index of the argument.
        at: usize,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Capability,
    TaskId,
    Attempt,
    PayloadFile,
}

/// A checked template.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Template(Vec<Vec<Part>>);

impl Template {
    /// Checks a template.
    ///
    /// # Errors
    /// The first argument that is malformed.
    pub fn parse(argv: &[String]) -> Result<Self, Error> {
        argv.iter().enumerate().map(|(at, arg)| parts(at, arg)).collect::<Result<_, _>>().map(Self)
    }

    /// Puts in the values.
    #[must_use]
    pub fn expand(&self, values: &Values<'_>) -> Vec<String> {
        let one = |parts: &Vec<Part>| {
            parts.iter().fold(String::new(), |mut arg, part| {
                match part {
                    Part::Text(text) => arg.push_str(text),
                    Part::Capability => arg.push_str(values.capability),
                    Part::TaskId => arg.push_str(values.task_id),
                    Part::Attempt => arg.push_str(&values.attempt.to_string()),
                    Part::PayloadFile => arg.push_str(values.payload_file),
                }
                arg
            })
        };
        self.0.iter().map(one).collect()
    }
}

fn parts(at: usize, arg: &str) -> Result<Vec<Part>, Error> {
    let mut parts = Vec::new();
    let mut text = String::new();
    let mut rest = arg;
    while let Some(brace) = rest.find(['{', '}']) {
        text.push_str(&rest[..brace]);
        let tail = &rest[brace..];
        if let Some(after) = tail.strip_prefix("{{") {
            text.push('{');
            rest = after;
        } else if let Some(after) = tail.strip_prefix("}}") {
            text.push('}');
            rest = after;
        } else {
            let inner = tail.strip_prefix('{').and_then(|inner| inner.split_once('}'));
            let (name, after) = inner.ok_or(Error::Brace { at })?;
            if !text.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut text)));
            }
            parts.push(match name {
                "capability" => Part::Capability,
                "task_id" => Part::TaskId,
                "attempt" => Part::Attempt,
                "payload_file" => Part::PayloadFile,
                _ => return Err(Error::Unknown { at, name: name.to_owned() }),
            });
            rest = after;
        }
    }
    text.push_str(rest);
    if !text.is_empty() {
        parts.push(Part::Text(text));
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALUES: Values<'_> = Values { capability: "a {b} $(c)", task_id: "t", attempt: 3, payload_file: "/p" };

    fn expand(argv: &[&str]) -> Result<Vec<String>, Error> {
        let argv: Vec<_> = argv.iter().map(|&a| a.to_owned()).collect();
        Template::parse(&argv).map(|template| template.expand(&VALUES))
    }

    #[test]
    fn placeholders_become_values_and_values_are_not_read_again() {
        let argv = expand(&["x", "{capability}", "--id={task_id}/{attempt}", "{payload_file}", "{{}}", ""]);
        assert_eq!(argv.expect("valid"), ["x", "a {b} $(c)", "--id=t/3", "/p", "{}", ""]);
    }

    #[test]
    fn faults_name_the_argument() {
        assert_eq!(expand(&["x", "{secret}"]), Err(Error::Unknown { at: 1, name: "secret".into() }));
        for bad in ["{", "}", "a{b", "{capability"] {
            assert_eq!(expand(&[bad]), Err(Error::Brace { at: 0 }), "{bad}");
        }
    }
}

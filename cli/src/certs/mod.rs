//! `hive certs`: a CA for development and what it signs. In production another CA issues the same names
//! (docs/tls.md). No file is ever overwritten.

mod authority;
mod files;

use crate::args::{Certs, CertsVerb};
use crate::failure::Failure;
use crate::output;
use authority::{Authority, Kind};

/// `hive certs`.
pub(crate) fn run(args: Certs, namespace: &str) -> Result<(), Failure> {
    let namespace = if namespace.is_empty() { "default" } else { namespace };
    match args.verb {
        CertsVerb::Init { folder, trust_domain, days } => {
            Authority::make(&folder.out, &trust_domain, days)?;
            let out = folder.out.display();
            output::line(&format!("{out}/ca.pem\n{out}/ca.key\n{out}/trust-domain"))?;
            output::say(&format!(
                "a CA for trust domain {trust_domain}, good for {days} days; for development: whoever has ca.key can be anybody\n  \
                 next: hive certs server --out {out} --host HOST\n        hive certs sidecar ID --out {out}\n        hive certs client --out {out}"
            ));
            Ok(())
        }
        CertsVerb::Server { leaf, hosts, name } => {
            label("--name", &name)?;
            let out = leaf.folder.out.display();
            issue(&leaf.folder.out, &name, leaf.days, &Kind::Server { name: &name, hosts: &hosts })?;
            output::say(&format!(
                "use it: hive-control-plane --tls-cert {out}/{name}.pem --tls-key {out}/{name}.key --tls-client-ca {out}/ca.pem"
            ));
            Ok(())
        }
        CertsVerb::Sidecar { id, leaf } => {
            label("the id", &id)?;
            label("--namespace", namespace)?;
            // No id holds an underscore, so no two sidecars share a name.
            let name =
                if namespace == "default" { format!("sidecar-{id}") } else { format!("sidecar-{namespace}_{id}") };
            let out = leaf.folder.out.display();
            issue(&leaf.folder.out, &name, leaf.days, &Kind::Sidecar { namespace, id: &id })?;
            output::say(&format!(
                "use it: hive-sidecar --id {id} --namespace {namespace} --server https://HOST:7070 --ca {out}/ca.pem --cert {out}/{name}.pem --key {out}/{name}.key"
            ));
            Ok(())
        }
        CertsVerb::Client { name, leaf } => {
            label("the name", &name)?;
            let out = leaf.folder.out.display();
            issue(&leaf.folder.out, &name, leaf.days, &Kind::Client { name: &name })?;
            output::say(&format!(
                "use it: hive --server https://HOST:7070 --ca {out}/ca.pem --cert {out}/{name}.pem --key {out}/{name}.key status"
            ));
            Ok(())
        }
    }
}

fn issue(out: &std::path::Path, name: &str, days: u16, kind: &Kind<'_>) -> Result<(), Failure> {
    let (cert, key) = (format!("{name}.pem"), format!("{name}.key"));
    let (pem, secret, uri) = Authority::open(out)?.issue(kind, days)?;
    files::write(out, &[(&key, &secret), (&cert, &pem)])?;
    output::line(&format!("{}\n{}", out.join(&cert).display(), out.join(&key).display()))?;
    output::say(&format!("{uri}, good for {days} days"));
    Ok(())
}

/// Parts of identities and of file names.
fn label(what: &str, text: &str) -> Result<(), Failure> {
    let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
    let edges = text.starts_with('-') || text.ends_with('-');
    if (1..=63).contains(&text.len()) && !edges && text.bytes().all(|b| plain(&b)) {
        return Ok(());
    }
    let why = "it must be 1 to 63 of a-z, 0-9 and -, not beginning or ending with -";
    Err(Failure::usage(format!("{what} {text:?} is not usable"), why))
}

//! `cvdmirror config dns`: the lines with which a site's resolver asks the mirror for the TXT records.
//!
//! Only `cvd.<zone>` is forwarded: every other name of the zone keeps its own answers. freshclam asks the system's
//! resolver, always on port 53, so that the mirror's own port appears in the resolver's settings alone.
use super::{Failure, Outcome, print};
use crate::config::Config;
use clap::ValueEnum;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The zone whose names are fixed in freshclam.
const FRESHCLAMS_ZONE: &str = "clamav.net";

/// A resolver whose settings can be printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum Resolver {
    Dnsmasq,
    Unbound,
    Bind,
}

pub(super) fn run(config: &Config, resolver: Resolver) -> Outcome {
    let Some((address, zone)) = &config.dns else {
        return Err(Failure::Usage(
            "dns_listen and dns_zone are not set, so there is nothing to forward to; \
             as in --dns-listen 192.0.2.1:5353 --dns-zone clamav.net"
                .into(),
        ));
    };
    if address.port() == 0 {
        return Err(Failure::Usage(format!(
            "dns_listen {address} takes another port at every start; give one to forward to"
        )));
    }
    let mut notes = notes(*address, zone);
    if config.may_ask_itself() {
        notes.push(format!(
            "This mirror looks up the same names itself, and through this resolver it would believe its own \
             answers: set its nameserver to a resolver that does not forward cvd.{zone}."
        ));
    }
    print(lines(resolver, reachable(*address), zone, &notes))
}

/// What a person who pastes the lines should know.
fn notes(address: SocketAddr, zone: &str) -> Vec<String> {
    let mut notes = vec![format!(
        "Forwards current.cvd.{zone} and <db>.cvd.{zone} to cvdmirror, and no other name of {zone}."
    )];
    if address.ip().is_unspecified() {
        notes.push(format!(
            "cvdmirror listens on every address: write the mirror's for {} where the resolver runs elsewhere.",
            reachable(address).ip()
        ));
    }
    if zone == FRESHCLAMS_ZONE {
        notes.push("freshclam.conf needs no DNSDatabaseInfo: these are the names that it asks for.".into());
    } else {
        notes.push(format!("freshclam.conf needs: DNSDatabaseInfo current.cvd.{zone}"));
        notes.push(format!(
            "freshclam asks for databases other than main, daily and bytecode under cvd.{FRESHCLAMS_ZONE} \
             whatever it is told: only with that as dns_zone are they answered here."
        ));
    }
    notes.push(
        "The record says version 0 of main, daily and bytecode where they are not mirrored. freshclam then asks the \
         mirror itself and gets 404: forward it only if every client follows mirrored databases alone."
            .into(),
    );
    notes
}

/// The address that a resolver on this host can ask.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

fn lines(resolver: Resolver, address: SocketAddr, zone: &str, notes: &[String]) -> String {
    let (ip, port) = (address.ip(), address.port());
    let comment = if resolver == Resolver::Bind { "//" } else { "#" };
    let mut text: String = notes.iter().map(|note| format!("{comment} {note}\n")).collect();
    text.push_str(&match resolver {
        Resolver::Dnsmasq => format!(
            "\
# For dnsmasq.conf, or a file in /etc/dnsmasq.d: names under cvd.{zone} are asked of cvdmirror alone.
# dnsmasq does not ask for DNSSEC signatures of a domain that has a server of its own.
server=/cvd.{zone}/{ip}#{port}
"
        ),
        Resolver::Unbound => {
            let local = match ip.is_loopback() {
                true => {
                    "    # unbound asks no address of its own host unless it is told to.\n    \
                     do-not-query-localhost: no\n"
                }
                false => "",
            };
            format!(
                "\
# For unbound.conf, or a file in /etc/unbound/unbound.conf.d.
server:
    # The mirror signs nothing: DNSSEC is not asked for below this name.
    domain-insecure: \"cvd.{zone}\"
{local}\
stub-zone:
    # Names under this one are asked of cvdmirror, which answers for them with authority.
    name: \"cvd.{zone}\"
    stub-addr: {ip}@{port}
    # The root's servers are not asked instead when the mirror is away.
    stub-first: no
"
            )
        }
        Resolver::Bind => format!(
            "\
// For named.conf. In its options block: the mirror signs nothing, DNSSEC is not asked for below this name.
//     validate-except {{ \"cvd.{zone}\"; }};
// Beside the other zones: names under this one are asked of cvdmirror, and of nobody else when it is away.
zone \"cvd.{zone}\" {{
    type forward;
    forward only;
    forwarders {{ {ip} port {port}; }};
}};
"
        ),
    });
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn the_port_is_said_as_each_resolver_reads_it() {
        let said = |resolver, address: &str| lines(resolver, address.parse().unwrap(), "clamav.net", &[]);
        let (v4, v6) = ("192.0.2.1:5353", "[2001:db8::1]:5353");
        assert!(said(Resolver::Dnsmasq, v4).contains("\nserver=/cvd.clamav.net/192.0.2.1#5353\n"));
        assert!(said(Resolver::Dnsmasq, v6).contains("\nserver=/cvd.clamav.net/2001:db8::1#5353\n"));
        assert!(said(Resolver::Unbound, v4).contains("\n    stub-addr: 192.0.2.1@5353\n"));
        assert!(said(Resolver::Unbound, v6).contains("\n    stub-addr: 2001:db8::1@5353\n"));
        assert!(said(Resolver::Bind, v4).contains("{ 192.0.2.1 port 5353; };\n"));
        assert!(said(Resolver::Bind, v6).contains("{ 2001:db8::1 port 5353; };\n"));
        // Only a mirror on the resolver's own host needs unbound's leave to be asked.
        assert!(!said(Resolver::Unbound, v4).contains("do-not-query-localhost"));
        assert!(said(Resolver::Unbound, "127.0.0.1:5353").contains("\n    do-not-query-localhost: no\n"));
    }

    #[test]
    fn a_wildcard_address_is_asked_on_this_host_and_said_to_be_one() {
        for (wildcard, local) in [("0.0.0.0:53", "127.0.0.1:53"), ("[::]:53", "[::1]:53")] {
            let wildcard: SocketAddr = wildcard.parse().unwrap();
            assert_eq!(reachable(wildcard).to_string(), local);
            assert!(notes(wildcard, "clamav.net").iter().any(|note| note.contains("every address")));
        }
        assert!(!notes("192.0.2.1:53".parse().unwrap(), "a.b").iter().any(|n| n.contains("every address")));
    }

    #[test]
    fn freshclam_is_told_of_a_zone_that_is_not_its_own() {
        let about = |zone| notes("192.0.2.1:53".parse().unwrap(), zone).join("\n");
        assert!(about("mirror.lan").contains("DNSDatabaseInfo current.cvd.mirror.lan"));
        assert!(about("clamav.net").contains("needs no DNSDatabaseInfo"));
        assert!(
            about("clamav.net").contains("version 0 of main, daily and bytecode where they are not mirrored")
        );
    }
}

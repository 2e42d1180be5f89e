//! The lab: one content network, three LANs beside each other, and stock freshclam in each of them.
//!
//! Time is counted in ticks. The TXT record names a version one tick before the origin has its files; the edges keep
//! an alias for 4 and for 7 ticks. At every tick each LAN updates itself, then its clients run: one that follows at
//! every tick, one that comes now and then, and one that is installed at that moment. One version in ten comes without a
//! patch, by an empty CDIFF that says: take the full CVD.
//!
//! What a client is told is what the record that its LAN gives it says. A run that ends below that is done once more at
//! once; one that ends in an error, or below it even then, has failed.
#![allow(unreachable_pub)]
mod plot;
mod sites;
mod squid;

pub use plot::svg;

use cvdmirror::source::txt::TxtResolver;
use sites::{Cached, Mirrored, Site, Today, WORLD};
use squid::Squid;
use std::{collections::BTreeSet, fmt::Write as _, time::Instant};
use support::{
    cdn::Cdn,
    clients::Freshclam,
    mint::{Mint, Release},
    name_server::{NameServer, time_s},
    peers::Peers,
};

/// Ticks for which the edges keep an alias.
const ALIAS_TICKS: [u64; 2] = [4, 7];
/// Ticks by which the record is ahead of the origin.
const LEAD: u64 = 1;
/// The last digit of versions without a patch.
const PATCHLESS: u32 = 4;
/// Ticks between two runs of the client that comes now and then.
const SELDOM: u64 = 9;

/// How much is done.
pub struct Settings {
    /// Versions published after the first.
    pub versions: u32,
    /// Ticks between two of them.
    pub pace: u64,
    /// Lines of the database, and lines edited in each version.
    pub lines: usize,
    pub edits: usize,
    /// Ticks between two new installations.
    pub fresh_every: u64,
    /// Whether clients run; without them only what is taken from the content network is measured.
    pub clients: bool,
}

/// One run of a client.
#[derive(Debug)]
pub struct Run {
    pub client: &'static str,
    /// The version that the record of its LAN told it of; none: there was no record.
    pub told: Option<u32>,
    /// The version it held afterwards.
    pub got: Option<u32>,
    /// Whether it ended with an exit code or a line that says so; some errors of freshclam's exit with 0.
    pub is_error: bool,
    /// Whether it was done twice.
    pub twice: bool,
}

impl Run {
    pub fn is_short(&self) -> bool {
        self.got < self.told
    }
}

/// One LAN at one tick.
pub struct Moment {
    pub tick: u64,
    /// What the record of the world says.
    pub published: u32,
    /// What its own record says.
    pub advertised: Option<u32>,
    pub runs: Vec<Run>,
}

/// What became of one LAN.
pub struct Outcome {
    pub name: &'static str,
    pub moments: Vec<Moment>,
    /// Requests and bytes taken from the content network by the end of the first tick.
    pub first: (u64, u64),
    /// After it.
    pub later: (u64, u64),
}

impl Outcome {
    fn runs(&self) -> impl Iterator<Item = &Run> {
        self.moments.iter().flat_map(|moment| &moment.runs)
    }

    /// Runs that failed.
    pub fn failed(&self) -> usize {
        self.runs().filter(|run| run.is_error || run.is_short()).count()
    }

    /// Versions that a client was told of, asked for, and could not get.
    pub fn unobtainable(&self) -> usize {
        self.runs().filter(|run| run.is_short()).map(|run| run.told).collect::<BTreeSet<_>>().len()
    }

    /// What the client that follows holds after each tick.
    fn following(&self) -> impl Iterator<Item = (&Moment, u32)> {
        self.moments.iter().map(|moment| {
            let run = moment.runs.iter().find(|run| run.client == FOLLOWER);
            (moment, run.and_then(|run| run.got).unwrap_or(0))
        })
    }

    /// Ticks from the publication of each version after the first until the client that follows held it, or a later
    /// one; none where it never did.
    pub fn delays(&self) -> Vec<Option<u64>> {
        let last = self.moments.last().map_or(0, |moment| moment.published);
        (2..=last)
            .map(|version| {
                let published = self.moments.iter().find(|moment| moment.published >= version)?.tick;
                let had = self.following().find(|(_, held)| *held >= version)?.0.tick;
                Some(had - published)
            })
            .collect()
    }
}

const FOLLOWER: &str = "follows";

/// Runs the lab; none where a peer is missing. Must run where port 53 of 127.0.0.1 is free and the resolver's.
pub fn run(settings: &Settings) -> Option<Vec<Outcome>> {
    let peers = Peers::with_mint_keys()?;
    let cdn = Cdn::start(ALIAS_TICKS);
    let names = NameServer::at("127.0.0.1:53");
    let mint = Mint::new(31);
    let mut lineage = mint.database_of("daily", settings.lines, settings.edits);
    let fronts = [cdn.front(), cdn.front()];
    let squid = Squid::start(&fronts.each_ref().map(|front| front.port))?;
    let [behind_squid, mirrored] = fronts;

    let first = lineage.publish();
    cdn.publish("daily", &first);
    announce(&names, first.version);
    let today = Today::start(cdn.front(), &names)?;
    let cached = Cached { front: behind_squid, squid: &squid };
    let mirrored = Mirrored::start(mirrored, &names, &squid, &mint);
    let mut lans = [
        Lan::new(Box::new(today), &peers),
        Lan::new(Box::new(cached), &peers),
        Lan::new(Box::new(mirrored), &peers),
    ];

    let mut published = first.version;
    let mut waiting: Option<(u64, Release)> = None;
    // The last version gets the time that the slowest edge takes.
    let end = u64::from(settings.versions) * settings.pace + ALIAS_TICKS[1] + LEAD + 1;
    for tick in 0..=end {
        if let Some((_, release)) = waiting.take_if(|(due, _)| *due <= tick) {
            cdn.publish("daily", &release);
        }
        cdn.tick();
        if tick % settings.pace == 1 && published <= settings.versions {
            let mut release = lineage.publish();
            published = release.version;
            if published % 10 == PATCHLESS {
                (release.cdiff, release.cdiff_sign) = (Some(Vec::new()), None);
            }
            announce(&names, published);
            waiting = Some((tick + LEAD, release));
        }
        std::thread::scope(|scope| {
            for lan in &mut lans {
                scope.spawn(|| lan.tick(tick, published, settings));
            }
        });
    }
    Some(lans.into_iter().map(Lan::end).collect())
}

/// Lets the record of the world speak of a version.
fn announce(names: &NameServer, version: u32) {
    names.set(WORLD, &format!("1.4.6:63:{version}:{}:1:90:49192:339", time_s(60)));
}

/// A LAN with its clients.
struct Lan<'a> {
    site: Box<dyn Site + 'a>,
    peers: &'a Peers,
    follower: Freshclam,
    seldom: Freshclam,
    outcome: Outcome,
}

impl<'a> Lan<'a> {
    fn new(site: Box<dyn Site + 'a>, peers: &'a Peers) -> Self {
        let [follower, seldom] = [0, 1].map(|_| client(&*site, peers));
        let outcome = Outcome { name: site.name(), moments: Vec::new(), first: (0, 0), later: (0, 0) };
        Self { site, peers, follower, seldom, outcome }
    }

    fn tick(&mut self, tick: u64, published: u32, settings: &Settings) {
        self.site.sync();
        let advertised = told(self.site.record());
        let run_of = |client, freshclam: &Freshclam| run_of(self.site.name(), client, freshclam, advertised);
        let mut runs = Vec::new();
        if settings.clients {
            runs.push(run_of(FOLLOWER, &self.follower));
        }
        if settings.clients && tick.is_multiple_of(SELDOM) {
            runs.push(run_of("comes seldom", &self.seldom));
        }
        if settings.clients && tick.is_multiple_of(settings.fresh_every) {
            runs.push(run_of("is new", &client(&*self.site, self.peers)));
        }
        self.outcome.moments.push(Moment { tick, published, advertised, runs });
        let asked = self.site.front().asked();
        let counts = if tick == 0 { &mut self.outcome.first } else { &mut self.outcome.later };
        counts.0 += asked.len() as u64;
        counts.1 += asked.iter().map(|asked| asked.bytes).sum::<u64>();
    }

    fn end(self) -> Outcome {
        self.outcome
    }
}

fn client(site: &dyn Site, peers: &Peers) -> Freshclam {
    let lines = format!("DatabaseMirror {}\nDNSDatabaseInfo {}\n", site.mirror(), site.record());
    Freshclam::with(&lines).unwrap().following("daily", peers)
}

fn run_of(lan: &str, client: &'static str, freshclam: &Freshclam, told: Option<u32>) -> Run {
    let once = |twice| {
        let ran = freshclam.update(&[]);
        let is_error = ran.code != Some(0) || ran.stdout.contains("ERROR: Update failed");
        let run = Run { client, told, got: freshclam.version(), is_error, twice };
        if std::env::var_os("LAB_VERBOSE").is_some() && (run.is_error || run.is_short()) {
            eprintln!("{lan}: {run:?}\n{ran}");
        }
        run
    };
    let run = once(false);
    // Behind an empty CDIFF freshclam settles for the full file, and leaves the patches after it to its next run.
    if run.is_short() && !run.is_error { once(true) } else { run }
}

/// What a record says of daily.
fn told(record: &str) -> Option<u32> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let resolver = TxtResolver::new(record, Some("127.0.0.1:53".parse().unwrap()));
    runtime.block_on(resolver.lookup(&"daily".parse().unwrap())).ok()?.version.filter(|version| *version > 0)
}

/// The table for people, in Markdown.
pub fn table(outcomes: &[Outcome], settings: &Settings, began: Instant) -> String {
    let mut text = format!(
        "{} versions, one every {} ticks; the record {LEAD} tick ahead of the origin, the edges up to {} and {} ticks \
         behind it; {} lines a database; {:.0} s\n\n|",
        settings.versions,
        settings.pace,
        ALIAS_TICKS[0] - 1,
        ALIAS_TICKS[1] - 1,
        settings.lines,
        began.elapsed().as_secs_f64()
    );
    for outcome in outcomes {
        let _ = write!(text, " | {}", outcome.name);
    }
    text += &format!(" |\n|---{}|\n", "|---".repeat(outcomes.len()));
    let mut row = |what: &str, value: &dyn Fn(&Outcome) -> String| {
        let _ = write!(text, "| {what}");
        for outcome in outcomes {
            let _ = write!(text, " | {}", value(outcome));
        }
        text += " |\n";
    };
    row("versions advertised that could not be had", &|o| o.unobtainable().to_string());
    row("client runs", &|o| o.runs().count().to_string());
    row("failed", &|o| o.failed().to_string());
    row("not failed, but took two runs", &|o| {
        o.runs().filter(|run| run.twice && !run.is_error && !run.is_short()).count().to_string()
    });
    row("of the failed in error", &|o| o.runs().filter(|run| run.is_error).count().to_string());
    row("ticks until the LAN has a version: median", &|o| median(o.delays()));
    row("the same: most", &|o| {
        let delays = o.delays();
        delays.iter().max().map_or("-".into(), |_| match delays.iter().all(Option::is_some) {
            true => delays.iter().flatten().max().map_or("-".into(), u64::to_string),
            false => "never".into(),
        })
    });
    row("requests to the CDN, first tick", &|o| o.first.0.to_string());
    row("requests to the CDN, later", &|o| o.later.0.to_string());
    row("bytes from the CDN, first tick", &|o| o.first.1.to_string());
    row("bytes from the CDN, later", &|o| o.later.1.to_string());
    text
}

fn median(mut delays: Vec<Option<u64>>) -> String {
    // What never came is later than all that did.
    delays.sort_by_key(|delay| delay.unwrap_or(u64::MAX));
    delays.get(delays.len() / 2).map_or("-".into(), |delay| delay.map_or("never".into(), |d| d.to_string()))
}

//! Claims and commits that meet: several daemons' own code, against one store that loses answers.
//!
//! Each round of a [`Lane`] is about one workload. Some nodes claim it at the same time, with its former
//! owner released, dead, or presumed dead and back in the middle of a commit; then everybody who ever
//! had the right to commit tries to. What must hold: one winner each, and a chain of epochs and
//! checkpoints in the store in which nothing is lost and nothing happens twice.
//!
//! A short form runs by default. `LIFEBOAT_TEST_RACES=10000` runs as many against each store,
//! `LIFEBOAT_TEST_SEED=N` with one seed.

mod contender;
mod count;
mod lane;
mod node;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use lifeboat_store::{Options, Store, s3::AccessKey};

use self::{count::Count, lane::Lane, node::Node};
use super::support::{Odds, Server, TestStore, Unreliable, seeds};

/// Daemons that meet.
const NODES: u64 = 4;

/// Workloads that are fought for at the same time.
const LANES: u64 = 6;

/// Rounds after which a lane goes on with a workload that is new.
const ROUNDS_OF_ONE: u64 = 25;

/// Races of the short form, for each store and seed.
const FEW: u64 = 120;

/// Longest time of one race, on the average, on a loaded machine.
const SLOW_RACE: Duration = Duration::from_millis(500);

/// What happens to the requests of each node.
const ODDS: Odds = Odds {
    busy: 0.05,
    throttled: 0.02,
    reset: 0.05,
    slow: 0.0,
    lost: 0.15,
};

/// The same for folders.
const PLAN: &str = "create.lose@p0.15;replace.lose@p0.15;any.fail:transient@p0.07;put.lose@p0.05";

fn races_wanted() -> u64 {
    let wanted = std::env::var("LIFEBOAT_TEST_RACES").ok();
    wanted.map_or(FEW, |text| text.parse().expect("a number of races"))
}

/// Has `stores` (one for each node) meet until there were as many races as are wanted.
async fn meet(seed: u64, stores: Vec<Arc<dyn Store>>, truth: Arc<dyn Store>) -> Count {
    let mut nodes = Vec::new();
    for (number, store) in stores.into_iter().enumerate() {
        nodes.push(Node::new(&format!("node-{number}"), store).await);
    }
    let (nodes, truth) = (Arc::new(nodes), Arc::new(Node::new("truth", truth).await));
    let each = races_wanted().div_ceil(LANES);
    let lanes = (0..LANES).map(|number| {
        let (nodes, truth) = (Arc::clone(&nodes), Arc::clone(&truth));
        tokio::spawn(async move {
            let mut lane = Lane::new(seed, number, nodes, truth);
            let mut rounds = 0;
            while lane.count.races() < each {
                if rounds % ROUNDS_OF_ONE == 0 {
                    lane.begin_anew(rounds / ROUNDS_OF_ONE);
                }
                rounds += 1;
                lane.round().await;
            }
            lane.count
        })
    });
    let limit = Duration::from_secs(60) + SLOW_RACE * u32::try_from(races_wanted()).unwrap();
    let all = tokio::time::timeout(limit, futures::future::join_all(lanes)).await;
    let all = all.unwrap_or_else(|_| panic!("seed {seed}: not done within {limit:?}"));
    all.into_iter().map(Result::unwrap).sum()
}

fn run(what: &str, seed: u64, meeting: impl Future<Output = Count>) -> Count {
    eprintln!("{what}: seed {seed}");
    let began = Instant::now();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(3)
        .enable_all()
        .build()
        .unwrap();
    let count = runtime.block_on(meeting);
    eprintln!("{what}: seed {seed}: {count} in {:?}", began.elapsed());
    count
}

#[test]
fn one_wins_each_race_on_a_folder() {
    let counts = seeds().into_iter().map(|seed| {
        let folder = TestStore::folder();
        run("races on a folder", seed, async {
            let mut stores: Vec<Arc<dyn Store>> = Vec::new();
            for node in 0..NODES {
                let plan = format!("seed={};{PLAN}", seed.wrapping_add(node));
                let (url, _) = folder.with_faults(&plan);
                let options = Options {
                    allow_faults: true,
                    ..Options::default()
                };
                stores.push(lifeboat_store::open(&url, &options).await.unwrap());
            }
            let truth = lifeboat_store::open(folder.url(), &Options::default()).await;
            meet(seed, stores, truth.unwrap()).await
        })
    });
    counts.sum::<Count>().check();
}

#[test]
fn one_wins_each_race_on_the_real_server() {
    let server = Server::from_environment();
    let (id, secret) = server.keys();
    let options = Options {
        s3_credentials: Some(AccessKey {
            id: id.to_owned(),
            secret: secret.to_owned(),
        }),
        ..Options::default()
    };
    let counts = seeds().into_iter().map(|seed| {
        let anywhere = "127.0.0.1:0".parse().unwrap();
        let doors: Vec<Unreliable> = (0..NODES)
            .map(|node| {
                Unreliable::start(anywhere, server.address(), ODDS, seed.wrapping_add(node))
            })
            .collect();
        let truth = server.behind(server.address());
        let count = run("races on the real server", seed, async {
            let mut stores: Vec<Arc<dyn Store>> = Vec::new();
            for door in &doors {
                let address = door.address().to_string();
                let url = truth.url().replace(server.address(), &address);
                stores.push(lifeboat_store::open(&url, &options).await.unwrap());
            }
            let truth = lifeboat_store::open(truth.url(), &options).await;
            meet(seed, stores, truth.unwrap()).await
        });
        for door in &doors {
            let (lost, unheard) = door.resets();
            assert!(lost > 0 && unheard > 0, "{}", door.told());
        }
        count
    });
    counts.sum::<Count>().check();
}

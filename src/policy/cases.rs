//! Policies for tests: a sound one, one with every key, and what can be wrong or doubtful.
//!
//! In one place because the reader and the schema are held against the same mistakes.
//!
//! **Does not know:** who reads them.

/// A sound policy, to which one thing is added or in which one is changed.
pub(crate) const SOUND: &str = r#"timezone: Europe/Berlin
hosts:
  host1: { tier: low }
  host3: { tier: high, mac: "a8:a1:59:00:00:03" }
policies:
  - name: work
    hosts: [host3]
    run: [{ from: "0 8 * * Mon-Fri", for: 10h }]
"#;

/// Every key of the language, once.
pub(crate) const EVERY_KEY: &str = r#"
timezone: Europe/Berlin
hosts:
  host1: { tier: low }
  host2:
    tier: medium
    mac: ["a8:a1:59:00:00:02", A8-A1-59-00-00-12]
    serves: [{ storage: pbs, busy_when: backups }, { qnetd: true }]
  host3:
    node: pve3
    tier: high
    mac: a8:a1:59:00:00:03
    wake:
      broadcast: 192.168.1.255
      interface: vmbr0
      password: { credential: wol-host3 }
      relay: host1
      proven: true
    boot_within: 6m
    min_on: 30m
    min_off: 0s
    lease: 4h30m
    quiet: [{ from: "0 22 * * *", to: "0 7 * * *" }]
    busy_while: [ssh-sessions]
    enforce: true
    ahead: 10m
    reserve: 2 GiB
    inhibit: { backups: false, tasks: true }
    watts: { off: 2, idle: 48.5, busy: 210 }
guests:
  - match: { vmid: 101, name: "web-*", tag: a, pool: p, type: vm }
    prefer: host2
    otherwise: migrate
    local_disks: move
    apart: web
policies:
  - name: nightly-backup
    hosts: host2
    for_backups: { storage: pbs, before: 10m }
  - name: elsewhere
    hosts: [host3]
    timezone: America/New_York
    run: [{ from: "0 0 8 * * 1-5", for: 8h }]
    except: ["2026-12-24..2027-01-02", "05-01"]
quorum: { spare: 1, evidence: configured, rescue: tell }
migrations: { per_host: 2, bandwidth: 110 MiB/s }
"#;

/// Replaced text, replacement, what the one error must say, and the text it must point at.
pub(crate) const WRONG: &[(&str, &str, &str, &str)] = &[
    ("tier: high", "teir: high", "did you mean `tier`?", "teir"),
    ("tier: high", "tier: hihg", "did you mean `high`?", "hihg"),
    ("tier: high, mac", "mac", "the key `tier` is missing", "host3"),
    ("[host3]", "[hots3]", "did you mean `host3`?", "hots3"),
    ("[host3]", "[host1]", "always on and can have no window", "host1"),
    ("[host3]", "[]", "no host is named", "[]"),
    ("a8:a1:59:00:00:03", "a8:a1:59:00:00", "six pairs", "\"a8:a1:59:00:00\""),
    ("a8:a1:59:00:00:03", "01:00:5e:00:00:01", "multicast", "\"01:00:5e:00:00:01\""),
    ("a8:a1:59:00:00:03", "00:00:00:00:00:00", "all zeroes", "\"00:00:00:00:00:00\""),
    ("\"0 8 * * Mon-Fri\"", "\"0 8 30 2 *\"", "never happens", "\"0 8 30 2 *\""),
    ("\"0 8 * * Mon-Fri\"", "\"0 8 13 * Fri\"", "both the day", "\"0 8 13 * Fri\""),
    ("\"0 8 * * Mon-Fri\"", "\"0 25 * * *\"", "does not fit", "\"0 25 * * *\""),
    ("\"0 8 * * Mon-Fri\"", "* * * * *", "in quotes", "* * * * *"),
    ("for: 10h", "to: \"0 8 * * 1-5\"", "close when it opens", "\"0 8 * * 1-5\""),
    ("for: 10h", "for: -10h", "negative", "-10h"),
    ("for: 10h", "for: 0s", "no time at all", "0s"),
    ("for: 10h", "for: 10", "no unit", "10"),
    ("for: 10h", "for: 99999999999w", "too long", "99999999999w"),
    ("for: 10h", "for: 400d", "at most 366 days", "400d"),
    (", for: 10h", "", "how the window ends", "{ from: \"0 8 * * Mon-Fri\" }"),
    ("for: 10h", "for: 10h, to: \"0 9 * * *\"", "not both", "to"),
    ("for: 10h", "for: 10h, until: 2h", "unknown key `until`", "until"),
    ("Europe/Berlin", "Europe/Berln", "did you mean `Europe/Berlin`?", "Europe/Berln"),
    ("    run:", "    when: price < 10\n    run:", "conditions on signals", "when"),
    ("  - name: work\n    hosts", "  - hosts", "`name` is missing", "hosts: [host3]"),
    ("    run: [{ from: \"0 8 * * Mon-Fri\", for: 10h }]\n", "", "not said when", "name: work"),
    ("policies:", "policys:", "did you mean `policies`?", "policys"),
    ("low }", "low, mac: [] }", "empty list", "[]"),
    ("low }", "low, wake: { password: secret } }", "may not stand in a policy", "secret"),
    ("low }", "low, wake: { relay: host1 } }", "cannot wake itself", "host1"),
    ("low }", "low, wake: { broadcast: 192.168.1.256 } }", "not an IPv4", "192.168.1.256"),
    ("low }", "low, watts: { off: 2, idle: 1, busy: 9 } }", "less when idle", "1"),
    ("low }", "low, enforce: yes }", "neither true nor false", "yes"),
    ("low }", "low, lease: }", "has no value", "lease"),
    ("low }", "low, node: host3 }", "node `host3` already", "host3"),
    ("low }", "low, mac: a8:a1:59:00:00:03 }", "host1's already", "\"a8:a1:59:00:00:03\""),
    ("host1:", "host 1:", "cannot be the name", "host 1"),
    ("host1: { tier: low }", "host1:", "nothing is said", "host1"),
    ("host1: { tier: low }", "host1: low", "a mapping is wanted", "low"),
    ("host1: { tier: low }", "host1: { tier: low, tier: low }", "twice", "tier"),
    ("hosts: [host3]", "hosts: [host3]\n    except: [2026-02-30]", "not a date", "2026-02-30"),
    (
        "hosts: [host3]",
        "hosts: [host3]\n    except: [01-01..12-31]",
        "no date",
        "{ from: \"0 8 * * Mon-Fri\", for: 10h }",
    ),
    ("policies:", "quorum: { spare: -1 }\npolicies:", "whole number", "-1"),
    ("policies:", "quorum: { evidence: runtme }\npolicies:", "did you mean `runtime`?", "runtme"),
    ("policies:", "migrations: { bandwidth: fast }\npolicies:", "not a bandwidth", "fast"),
    (
        "policies:",
        "guests: [{ prefer: [host3] }]\npolicies:",
        "`match` is missing",
        "{ prefer: [host3] }",
    ),
    ("policies:", "guests: [{ match: {} }]\npolicies:", "nothing in particular", "{}"),
    ("policies:", "guests: [{ match: { vmid: 99 } }]\npolicies:", "from 100", "99"),
    (
        "policies:",
        "guests: [{ match: { any: true }, prefer: [host4] }]\npolicies:",
        "did you mean",
        "host4",
    ),
    (
        "policies:",
        "guests: [{ match: { any: true }, otherwise: hibernate }]\npolicies:",
        "needs an `else`",
        "hibernate",
    ),
    (
        "policies:",
        "guests: [{ match: { any: true }, otherwise: { hibernate: {} } }]\npolicies:",
        "`else` is missing",
        "hibernate",
    ),
    (
        "policies:",
        "guests: [{ match: { any: true }, pinned: true, otherwise: migrate }]\npolicies:",
        "never moved",
        "migrate",
    ),
    (
        "policies:",
        "guests: { match: { any: true } }\npolicies:",
        "a list is wanted",
        "{ match: { any: true } }",
    ),
    (
        "policies:",
        "guests: [{match: {type: ct}, otherwise: {hibernate: {else: migrate}}}]\npolicies:",
        "cannot hibernate containers",
        "{hibernate: {else: migrate}}",
    ),
    (
        "for: 10h",
        "for: 30h",
        "opens again before it has closed",
        "{ from: \"0 8 * * Mon-Fri\", for: 30h }",
    ),
    (
        "Mon-Fri\", for: 10h",
        "*\", for: 30h",
        "longer than its period",
        "{ from: \"0 8 * * *\", for: 30h }",
    ),
];

/// As above, but the policy stands.
pub(crate) const DOUBTFUL: &[(&str, &str, &str)] = &[
    (", mac: \"a8:a1:59:00:00:03\"", "", "can never be woken"),
    ("timezone: Europe/Berlin\n", "", "read as UTC"),
    ("[host3]", "[host3, host3]", "stands here twice"),
    ("tier: high", "tier: high, quiet: [{ from: \"0 6 * * *\", for: 14h }]", "is quiet whenever"),
    (
        "policies:",
        "guests: [{ match: { any: true } }, { match: { tag: a } }]\npolicies:",
        "takes every guest",
    ),
    (
        "policies:",
        "guests: [{ match: { any: true }, pinned: true, prefer: [host3] }]\npolicies:",
        "no effect",
    ),
    ("    hosts: [host3]\n", "    hosts: [host4]\n", "no policy ever wakes host3"),
];

//! passwd(5) and group(5) of an image: untrusted text, read with bounds.

/// Bytes of either file that are looked at.
pub(super) const FILE_LIMIT: u64 = 1 << 20;

/// Longer lines are skipped.
const LINE_LIMIT: usize = 32 << 10;

/// Supplementary groups of one user; NGROUPS_MAX of the kernel is 65536, no
/// image needs more than this.
const GROUP_LIMIT: usize = 4096;

/// Who a process runs as.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Supplementary groups.
    pub(super) groups: Vec<u32>,
}

/// Why `user[:group]` means nobody.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unknown {
    User(String),
    Group(String),
}

struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#') && line.len() <= LINE_LIMIT)
}

fn accounts(passwd: &str) -> impl Iterator<Item = Account<'_>> {
    lines(passwd).filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        Some(Account {
            name,
            uid,
            gid,
            home: fields.nth(1).unwrap_or(""),
        })
    })
}

/// Name, number and members of each group.
fn groups(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    lines(group).filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let gid = fields.nth(1)?.parse().ok()?;
        Some((name, gid, fields.next().unwrap_or("")))
    })
}

/// Ids above this are refused by the kernel or mean "unchanged".
fn number(text: &str) -> Option<u32> {
    text.parse()
        .ok()
        .filter(|id| *id <= i32::MAX.unsigned_abs())
}

/// Resolves an image's `user`, `uid`, `user:group`, `uid:gid` and the mixed
/// forms as Docker does: a name wins over a number, a numeric user needs no
/// entry, a group given leaves out the supplementary ones.
pub(super) fn resolve(user: &str, passwd: &str, group: &str) -> Result<Identity, Unknown> {
    let (user, wanted_group) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (user, None),
    };
    let by_number = number(user);
    let account = match user {
        "" => accounts(passwd).find(|account| account.uid == 0),
        name => accounts(passwd)
            .find(|account| account.name == name)
            .or_else(|| accounts(passwd).find(|account| Some(account.uid) == by_number)),
    };
    let mut identity = match (&account, by_number) {
        (Some(account), _) => Identity {
            uid: account.uid,
            gid: account.gid,
            groups: Vec::new(),
        },
        (None, Some(uid)) => Identity {
            uid,
            ..Identity::default()
        },
        (None, None) if user.is_empty() => Identity::default(),
        (None, None) => return Err(Unknown::User(user.to_owned())),
    };
    if let Some(wanted) = wanted_group {
        identity.gid = groups(group)
            .find(|(name, ..)| *name == wanted)
            .map(|(_, gid, _)| gid)
            .or_else(|| number(wanted))
            .ok_or_else(|| Unknown::Group(wanted.to_owned()))?;
    } else if let Some(account) = account {
        identity.groups = groups(group)
            .filter(|(.., members)| members.split(',').any(|member| member == account.name))
            .map(|(_, gid, _)| gid)
            .take(GROUP_LIMIT)
            .collect();
    }
    Ok(identity)
}

/// The home directory of a uid, if it has one.
pub(super) fn home(uid: u32, passwd: &str) -> Option<&str> {
    accounts(passwd)
        .find(|account| account.uid == uid)
        .map(|a| a.home)
        .filter(|h| !h.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n# a comment\nbroken\n\
        web:x:33:34:web:/srv/web:/bin/sh\n1000:x:7:8::/odd:\n";
    const GROUP: &str = "root:x:0:\nwww:x:34:\nlogs:x:50:web,root\nssl:x:51:web\n";

    fn ids(user: &str) -> (u32, u32, Vec<u32>) {
        let identity = resolve(user, PASSWD, GROUP).unwrap();
        (identity.uid, identity.gid, identity.groups)
    }

    #[test]
    fn a_name_brings_its_groups() {
        assert_eq!(ids("web"), (33, 34, vec![50, 51]));
        assert_eq!(ids("33"), (33, 34, vec![50, 51]));
    }

    #[test]
    fn a_group_given_replaces_them() {
        assert_eq!(ids("web:logs"), (33, 50, vec![]));
        assert_eq!(ids("web:99"), (33, 99, vec![]));
        assert_eq!(ids("12:34"), (12, 34, vec![]));
    }

    #[test]
    fn a_number_needs_no_entry_but_a_name_does() {
        assert_eq!(ids("4711"), (4711, 0, vec![]));
        assert_eq!(
            resolve("bob", PASSWD, GROUP),
            Err(Unknown::User("bob".into()))
        );
        assert_eq!(
            resolve("web:x", PASSWD, GROUP),
            Err(Unknown::Group("x".into()))
        );
        assert_eq!(
            resolve("4294967295", "", ""),
            Err(Unknown::User("4294967295".into()))
        );
    }

    #[test]
    fn a_name_wins_over_the_same_number() {
        assert_eq!(ids("1000").0, 7);
    }

    #[test]
    fn a_home_is_found_by_uid() {
        assert_eq!(home(33, PASSWD), Some("/srv/web"));
        assert_eq!(home(5, PASSWD), None);
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_parsers(user in ".{0,40}", passwd in "([a-z0-9:,#\n]|.){0,400}", group in "([a-z0-9:,\n]|.){0,400}") {
            if let Ok(identity) = resolve(&user, &passwd, &group) {
                prop_assert!(identity.groups.len() <= GROUP_LIMIT);
            }
            let _ = home(0, &passwd);
        }

        #[test]
        fn every_written_account_is_found(name in "[a-z][a-z0-9]{0,8}", uid in 0u32..70000, gid in 0u32..70000) {
            let passwd = format!("other:x:1:1::/:\n{name}:x:{uid}:{gid}::/home:/bin/sh\n");
            prop_assume!(name != "other");
            let identity = resolve(&name, &passwd, "").unwrap();
            prop_assert_eq!((identity.uid, identity.gid), (uid, gid));
        }
    }
}

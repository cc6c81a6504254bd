#!/usr/bin/env perl
# Checks what `cargo metadata` tells about the dependencies against deny.toml: licences on the list of permissive ones,
# sources crates.io or this repository, no banned crate, OpenSSL and zlib built in. Two versions of one crate: a warning.
use strict;
use warnings;
use FindBin;
use JSON::PP;

chdir "$FindBin::Bin/.." or die "dependencies: no repository around $0\n";
open my $file, '<', 'deny.toml' or die "dependencies: cannot read deny.toml: $!\n";
my $toml = do { local $/; <$file> };

# The strings of the list `key = [ … ]` in `[section]`; of an entry that is a table, its first string.
sub list {
    my ($section, $key) = @_;
    my ($body) = $toml =~ /^\[\Q$section\E\]\n(.*?)(?=^\[|\z)/ms or die "dependencies: deny.toml has no [$section]\n";
    my ($items) = $body =~ /^\Q$key\E = \[\n(.*?)^\]/ms or die "dependencies: deny.toml has no $section.$key\n";
    my @strings = map { /^\s*[^#"]*"([^"]+)"/ ? $1 : () } split /\n/, $items;
    return @strings;
}
my %allowed = map { $_ => 1 } list('licenses', 'allow');
my %banned  = map { $_ => 1 } list('bans',     'deny');
my @targets = map { "--filter-platform=$_" } list('graph', 'targets');

# Whether an SPDX expression can be satisfied by the allowed licences ("/" is the older way to write OR).
my %used;
sub permitted {
    my $expression = shift;
    $expression =~ s{/}{ OR }g;
    my $term = sub { my $t = shift; $used{$t} = 1 if $allowed{$t}; $allowed{$t} ? 1 : 0 };
    $expression =~ s{([A-Za-z0-9.+-]+(?: WITH [A-Za-z0-9.+-]+)?)}{
        my $word = $1; $word eq 'OR' ? '||' : $word eq 'AND' ? '&&' : $term->($word) }ge;
    return 0 if $expression !~ /^[01()&|\s]+$/;
    return eval $expression;
}

# What would quietly link against a library of the system unless this feature is on.
my %built_in = ('openssl-sys' => 'vendored', 'libz-sys' => 'static', 'libsqlite3-sys' => 'bundled');

my (@errors, @warnings, %versions, %packages);
my $json = `cargo metadata --locked --format-version 1 @targets`;
die "dependencies: cargo metadata failed\n" if $? != 0;
my $metadata = decode_json($json);
$packages{ $_->{id} } = $_ for @{ $metadata->{packages} };

for my $node (@{ $metadata->{resolve}{nodes} }) {
    my $package = $packages{ $node->{id} };
    my ($name, $source, $licence) = ($package->{name}, $package->{source}, $package->{license});
    my $who = "$name $package->{version}";
    $versions{$name}{ $package->{version} } = 1;
    push @errors, "$who comes from $source, not from crates.io" if defined $source && $source !~ m{^registry\+.*/crates\.io-index$};
    push @errors, "$who comes from a folder outside of this repository"
        if !defined $source && index($package->{manifest_path}, "$metadata->{workspace_root}/") != 0;
    push @errors, "$who is banned by deny.toml" if $banned{$name};
    push @errors, "$who names no licence" if !defined $licence;
    push @errors, "$who has the licence $licence, which deny.toml does not allow" if defined $licence && !permitted($licence);
    my $feature = $built_in{$name};
    push @errors, "$who links against a library of the system: its feature $feature is off"
        if defined $feature && !grep { $_ eq $feature } @{ $node->{features} };
}
for my $name (sort keys %versions) {
    my @all = sort keys %{ $versions{$name} };
    push @warnings, "$name comes in " . @all . " versions: @all" if @all > 1;
}
push @warnings, "deny.toml allows $_, which no dependency has" for grep { !$used{$_} } sort keys %allowed;

print "dependencies: warning: $_\n" for @warnings;
print STDERR "dependencies: error: $_\n" for @errors;
exit 1 if @errors;
print 'dependencies: ', scalar keys %packages, " crates, licences and sources are as deny.toml wants them\n";

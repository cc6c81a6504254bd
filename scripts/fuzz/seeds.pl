#!/usr/bin/env perl
# seeds.pl FOLDER: writes what fuzzing begins with, a folder a target, a file an input: journeys and filters that were recorded
# for the tests, and messages in switch's shape.
use strict;
use warnings;
use File::Path 'make_path';
use FindBin;
use JSON::PP;

my $root = "$FindBin::Bin/../..";
my $folder = shift or die "usage: $0 FOLDER\n";
my $json = JSON::PP->new->allow_nonref->canonical;

sub read_json {
    my $path = "$root/$_[0]";
    open my $file, '<:raw', $path or die "seeds: cannot read $path: $!\n";
    local $/;
    return $json->utf8->decode(<$file>);
}

my %count;
sub seed {
    my ($target, $bytes) = @_;
    utf8::encode($bytes) if utf8::is_utf8($bytes);
    make_path("$folder/$target");
    my $path = "$folder/$target/" . $count{$target}++;
    open my $file, '>:raw', $path or die "seeds: cannot write $path: $!\n";
    print $file $bytes;
}

# Each text in the journeys that is itself a message.
sub values_in {
    my $node = shift;
    return map { values_in($_) } @$node if ref $node eq 'ARRAY';
    return map { values_in($_) } values %$node if ref $node eq 'HASH';
    return defined $node && $node =~ /^\s*\{/ ? $node : ();
}
seed('slip', $_) for values_in(read_json('tests/system/vectors/journeys.json'));
seed('slip', $_) for
    '{"header":{"route":["Log","WhiteList"],"original_route":["Log","WhiteList","AddEmail"],"historical_route":["AddEmail"],"id":"00000000-0000-0000-0000-000000000001"},"payload":{"x":0,"a":2.50}}',
    '{"v":1, "payload" : {"email":"a","e\u006dail":1} ,"header":{"x":[1 , 2],"historical_route":[ ],"route":["Log" , "White\u004cist"],"t":1e400,"deadline":1700000000000}} ',
    '{"header":{"route":[],"revisions":[{"stop":"whitelist","hop":2,"insert":["Log"]},{"stop":"a","hop":1,"replace":["Log"]}]},"payload":{}}',
    '{"header":{"route":["a b","\u00fc"],"rule":"rest","rules":"0af","parent":"p"},"payload":{"a":"\ud800"}}';

for my $group (@{ read_json('src/filter/tests/python.json') }) {
    seed('filter_python', "$_->{filter}\0$group->{data}") for @{ $group->{filters} };
}
seed('filter_cel', "$_\0" . '{"body":{"amount":120,"name":"Ada","tags":["new"]},"n":1,"big":12345678901234567890}') for
    'data.body.amount > 100', '!has(data.body.x) || data.body.x == null', 'data.body.tags.exists(t, t == "new")',
    'data.body.name.startsWith("A") && size(data.body.tags) in [1, 2]', 'data.body.name.matches("^A.a$")',
    'data["body"]["amount"] + 1 == 121 ? data.n < 2 : false', 'data.body.tags.all(t, t != "old") // new ones',
    'data.big > 1e18 && -data.n * 2 % 3 == -2', 'data.body.map(k, k)[0] == "amount"', 'int("7") == 7 && double(data.n) == 1.0',
    'duration("1h") > duration("5m") && timestamp("2026-01-01T00:00:00Z") < timestamp("2027-01-01T00:00:00Z")';

seed('template', $_) for
    '{"body":{"a":1},"headers":{"X-Kind":"a","X-Count":2.50},"query_params":{"page":2,"l":[1,"2",null,true]},"path_params":{"id":7,"name":"a/b"},"http_method":"put"}',
    '{"body":0,"headers":{"Connection":"x-a, close","X-A":"1","Host":"evil","Content-Length":"9"},"query_params":null,"path_params":{"":"x","id":".."},"http_method":""}',
    '{"path_params":{"a":":b","b":"\u00fc%2f..","id":"@evil:80"},"headers":{"te":"trailers","webhook-id":"1"},"http_method":"CONNECT"}';

print "seeds: ", join(', ', map { "$_ $count{$_}" } sort keys %count), "\n";

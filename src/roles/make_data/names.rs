//! What the made-up emails consist of. The tables are part of what a seed stands for: another word, or another order,
//! gives other bytes.

/// 256 first names.
pub const FIRST_NAMES: &str = "\
    aaron abigail adam adele adrian agnes aisha alan albert alejandro alexander alfred ali alice alina amanda \
    amber amina amir amy ana andrea andrew angela anita anna anton antonio arthur astrid audrey austin ava barbara \
    beatriz ben benjamin bernard beth boris brandon brenda brian bruno caleb camila carl carla carlos carmen \
    catherine cecilia charles charlotte chen chloe christian christine claire clara claudia connor cristina \
    cynthia daniel daria david deborah denis diana diego dmitri donna dorothy dylan edith eduardo edward elena eli \
    elias elizabeth ella emil emily emma eric erika ernest esther ethan eva evelyn fatima felix finn fiona frances \
    francisco frank freya gabriel gemma george gerald gloria greta gustav hana hannah harold hassan hector heidi \
    helen henry hiroshi ian ibrahim ida ines ingrid irene iris isaac isabel ivan jack james jan jana jane jasmine \
    javier jean jennifer jessica joan joel john jonas jorge jose joseph joshua juan judith julia julian karen karl \
    katarina kevin kim klara kofi lars laura leah leila leo leonie liam lidia lily linda lisa louis lucas lucia \
    lucy ludwig luis luna madison magnus marcel marco margaret maria marie mario mark marta mary mateo matthew \
    maya megan mei michael miguel mila milan miriam mona monica nadia natalie nathan nicholas nicole nina noah \
    nora oliver omar oscar pablo patricia paul paula pedro peter philip rachel rafael raquel rebecca ricardo \
    richard robert robin rosa ruben ruth ryan samira sandra sara sebastian simon sofia sophie stefan stella \
    stephen susan sven teresa theo thomas tim tobias ulrike valentina vera victor vincent violet wei william \
    yasmin yuki yusuf zoe";

/// 256 last names.
pub const LAST_NAMES: &str = "\
    abbott abe adams adler alexander allen almeida alonso alvarez andersen anderson armstrong arnold bailey baker \
    banerjee barbosa barnes becker bell benitez bennett berg bergman bernard bianchi bondarenko bonnet bowman boyd \
    bradley brandt braun brooks brown bryant burke butler byrne cabrera cardoso carlson carr carter castillo \
    castro chan chang chavez chowdhury clark cole coleman collins conti cooper costa cox crawford cruz cunningham \
    daniels davies davis delgado diaz dixon dubois duncan eklund elliott ellis eriksson esposito evans farah \
    ferguson ferrari fischer fisher fitzgerald fleming flores fontaine foster fournier fox franke freeman fuchs \
    fujita garcia gardner gibson gomez gonzalez gordon graham grant greco green griffin gruber gupta gutierrez \
    haas hamilton hansen harper harris harrison hart hartmann hayes henderson hernandez herrera hill hoffmann holm \
    horvat huang huber hughes hunter ito ivanova jackson jenkins jensen johansson johnson jones jordan kamau kaya \
    keller kelly kennedy khan king klein knight koch kovacs kowalski kraus kumar lambert lang lawson lee lehmann \
    leroy lewis lindberg liu lorenz lund maier marino marshall martinez mason mayer mendes mendoza meyer miller \
    mitchell moller moore moreau moreno morgan morris muller murphy murray navarro nelson neumann newman nguyen \
    nielsen nilsson novak olsen ortega ortiz owens palmer park parker pereira perez petersen petrov phillips popov \
    porter price quinn ramirez ramos reed reid reyes richter rivera roberts robinson rodriguez rogers romano \
    romero roth roux russell sanchez santos sato schmidt schubert scott shah sharma silva simmons singh sokolov \
    soto stewart sullivan suzuki svensson takahashi tanaka thompson torres turner vargas vasquez vogel wagner \
    wallace wang ward watson weber wood wright yang young zhang zimmermann";

/// 64 domains, all under a top level that is reserved for examples (RFC 2606): no mail can reach anybody.
pub const DOMAINS: &str = "\
    alderbank.example amberfield.example arcadia-mail.example ashgrove.example beaconpost.example \
    birchwood.example blueharbor.example brightwater.example broadlane.example cedarhill.example citymail.example \
    clearbrook.example cloverdale.example coppermine.example coralbay.example crestview.example deltapost.example \
    driftwood.example eastgate.example elmstreet.example evergreen.example fairmont.example fernhill.example \
    firstpost.example foxglove.example freshmail.example glassworks.example goldenfield.example \
    granitepeak.example greenvalley.example harborlight.example hawthorn.example highland.example \
    hilltop-labs.example homepost.example inlandmail.example ironbridge.example juniper.example kingsway.example \
    lakeside.example larkspur.example lighthouse.example lindenhof.example longmeadow.example mailbox.example \
    maplewood.example marigold.example millbrook.example moonrise.example northwind.example oakridge.example \
    openletter.example orchard.example parkside.example pinecrest.example quickpost.example redstone.example \
    riverside.example silverlake.example southport.example stonebridge.example sunfield.example westbrook.example \
    willowmail.example";

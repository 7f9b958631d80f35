"""The token endpoint over HTTP: GET, and POST as OAuth 2 has it (RFC 6749)."""

from collections.abc import Callable, Sequence
from urllib.parse import parse_qsl

from registry.api.access import NO_STORE, Realm
from registry.api.auditing import Auditor
from registry.api.forwarding import client_address
from registry.api.requests import Request
from registry.api.responses import Response, header, json_response
from registry.audit.events import EventKind
from registry.auth.basic import BasicError, check_credentials, parse_basic
from registry.auth.identities import ANONYMOUS, Identity, Kind
from registry.auth.scopes import Scopes, TooManyScopes
from registry.auth.token_service import Issued, TokenRequest, TokenService
from registry.certificates import ClientCertificate, client_certificate
from registry.errors import BadRequest, TooLarge, TooManyRequests, Unauthorized, Unsupported

FORM = "application/x-www-form-urlencoded"
FORM_BYTES_MAX = 64 << 10
FIELDS_MAX = 64
CLIENT_CHARACTERS_MAX = 128


class TokenEndpoint:
    """`/token` beside `/v2/`."""

    def __init__(
        self,
        service: TokenService,
        realm: Realm,
        auditor: Auditor,
        *,
        name: str,
        name_of: Callable[[ClientCertificate], str | None],
        is_trusted: Callable[[str], bool],
    ) -> None:
        self._service = service
        self._realm = realm
        self._auditor = auditor
        self._name = name
        self._name_of = name_of
        self._is_trusted = is_trusted

    async def __call__(self, request: Request) -> Response:
        """Answer GET, HEAD and POST. Raises what TokenService.issue raises, with a challenge where it helps."""
        asked = None
        try:
            if request.method == "POST":
                asked = await self._posted(request)
            elif request.method in {"GET", "HEAD"}:
                asked = self._got(request)
            else:
                raise Unsupported("this address takes GET, HEAD, POST", headers=[("allow", "GET, HEAD, POST")])
            issued = await self._service.issue(asked)
        except (TooManyRequests, Unauthorized) as error:
            await self._auditor.login_failed(self._address(request), _claimed(asked), error.message)
            if isinstance(error, Unauthorized):
                challenge = f'Bearer realm="{self._realm.of(request.scope, request.root)}",service="{self._name}"'
                error.headers = [("www-authenticate", challenge), NO_STORE]
            raise
        await self._record(asked, issued)
        return _answer(issued, posted=request.method == "POST")

    def _got(self, request: Request) -> TokenRequest:
        credentials = None
        authorization = request.header(b"authorization")
        if authorization is not None:
            try:
                credentials = parse_basic(authorization)
            except BasicError as error:
                raise Unauthorized(str(error)) from None
        query = request.query
        return TokenRequest(
            scopes=_scopes(query.all("scope")),
            service=query.first("service") or "",
            address=self._address(request),
            credentials=credentials,
            certified=self._certified(request),
            offline=query.first("offline_token") == "true",
            client=(query.first("client_id") or "")[:CLIENT_CHARACTERS_MAX],
        )

    async def _posted(self, request: Request) -> TokenRequest:
        fields = await _form(request)
        grant, credentials, refresh_token = _first(fields, "grant_type"), None, None
        match grant:
            case "password":
                try:
                    credentials = check_credentials(_first(fields, "username"), _first(fields, "password"))
                except BasicError as error:
                    raise Unauthorized(str(error)) from None
                if credentials is None:
                    raise BadRequest("the form lacks username and password: for a token without them, ask by GET")
            case "refresh_token":
                refresh_token = _first(fields, "refresh_token")
            case _:
                raise BadRequest("grant_type has to be password or refresh_token")
        return TokenRequest(
            scopes=_scopes([value for name, value in fields if name == "scope"]),
            service=_first(fields, "service"),
            address=self._address(request),
            credentials=credentials,
            refresh_token=refresh_token,
            certified=self._certified(request),
            offline=_first(fields, "access_type") == "offline",
            client=_first(fields, "client_id")[:CLIENT_CHARACTERS_MAX],
        )

    def _certified(self, request: Request) -> Identity | None:
        certificate = client_certificate(request.scope)
        name = None if certificate is None else self._name_of(certificate)
        return None if name is None else Identity(Kind.CERTIFICATE, name)

    def _address(self, request: Request) -> str:
        return client_address(request.scope, self._is_trusted)

    async def _record(self, asked: TokenRequest, issued: Issued) -> None:
        if issued.identity == ANONYMOUS:
            return  # nobody has logged in, and the token says what any request without one may do
        actor = str(issued.identity)
        # docker login asks for no scope: it only wants to know whether the password is right.
        kind = EventKind.TOKEN_ISSUED if asked.scopes.render() else EventKind.LOGIN
        detail = {"scope": issued.granted.render()} if asked.scopes.render() else {}
        if issued.refresh_token is not None:
            detail["refresh_token"] = "issued"  # noqa: S105  # no password
        await self._auditor.write(kind, actor=actor, address=asked.address, detail=detail)


def _answer(issued: Issued, *, posted: bool) -> Response:
    # No issued_at: clients would compute the end from it, and throw tokens away where clocks differ.
    content: dict[str, object] = {
        "token": issued.token,
        "access_token": issued.token,
        "expires_in": issued.seconds,
    }
    if posted:
        content["scope"] = issued.granted.render()
        content["token_type"] = "Bearer"  # noqa: S105  # no password
    if issued.refresh_token is not None:
        content["refresh_token"] = issued.refresh_token
    name, value = NO_STORE
    return json_response(content, headers=[header(name.encode(), value)])


async def _form(request: Request) -> list[tuple[str, str]]:
    media_type = (request.header(b"content-type") or "").partition(";")[0].strip().lower()
    if media_type != FORM:
        raise BadRequest(f"the token endpoint takes {FORM}")
    body = bytearray()
    async for pieces in request.batches():
        for piece in pieces:
            body += piece
        if len(body) > FORM_BYTES_MAX:
            raise TooLarge(f"the form has more than {FORM_BYTES_MAX} bytes")
    try:
        return parse_qsl(
            body.decode("ascii"), keep_blank_values=True, encoding="utf-8", errors="strict", max_num_fields=FIELDS_MAX
        )
    except ValueError:
        raise BadRequest("the form can't be read: expected UTF-8, percent-encoded, and not too many fields") from None


def _scopes(values: Sequence[str]) -> Scopes:
    try:
        return Scopes.parse(values)
    except TooManyScopes as error:
        raise BadRequest(str(error)) from error


def _first(fields: Sequence[tuple[str, str]], name: str) -> str:
    return next((value for key, value in fields if key == name), "")


def _claimed(asked: TokenRequest | None) -> str:
    """Whom a client has said that it is."""
    return asked.credentials.user if asked is not None and asked.credentials is not None else ""

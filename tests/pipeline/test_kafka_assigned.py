"""Topics that are divided by other columns than the consumer keeps order by."""

from __future__ import annotations

import pytest

from pgcdc.errors import ConfigError
from pgcdc.pipeline.kafka_assigned import Arranging
from pgcdc.pipeline.options import Options
from pgcdc.pipeline.subscription import HandlerSubscription
from pgcdc.protocol import RowFormat


def arranging_by(key: tuple[str, ...]) -> Arranging:
    subscription = HandlerSubscription("h", frozenset(), None, True, Options(key=key), handler=print, row=None)
    return Arranging(subscription, RowFormat(), {"shop.public.orders": key})


@pytest.mark.parametrize("key", [b'{"user_id":7}', b'{"user_id":7,"kind":"a"}', b'{"kind":"caf\\udce9"}', None])
def test_what_keeps_order(key: bytes | None) -> None:
    arranging = arranging_by(("user_id", "kind"))
    arranging.check_key("shop.public.orders", key)


def test_what_does_not_keep_order() -> None:
    arranging = arranging_by(("user_id",))
    arranging.check_key("shop.public.other", b'{"id":1}')
    with pytest.raises(ConfigError, match=r"topic 'shop.public.orders' is divided by id") as caught:
        arranging.check_key("shop.public.orders", b'{"id":1}')
    assert 'keys={"TABLE": ["user_id"]}' in str(caught.value.hint)

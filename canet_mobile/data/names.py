"""What columns are called in the logs of this field, and what their values look like."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

# In order of preference. They cover, beside common use, MovieLens, Amazon reviews, Last.fm (HetRec, LFM-1b
# and 2b), RetailRocket, Diginetica, Yoochoose, H&M, KuaiRand, KuaiRec, Yelp and Steam.
USER_NAMES = (
    "user_id", "userid", "user", "uid", "username", "user_name", "session_id", "sessionid", "session",
    "customer_id", "customerid", "customer", "visitor_id", "visitorid", "member_id", "reviewerid",
    "reviewer_id", "account_id", "client_id", "user_session", "buyer_id", "household_key", "profile_id",
)  # fmt: skip
ITEM_NAMES = (
    "item_id", "itemid", "item", "iid", "product_id", "productid", "product", "movie_id", "movieid", "movie",
    "video_id", "videoid", "track_id", "trackid", "track", "song_id", "songid", "article_id", "articleid",
    "news_id", "newsid", "book_id", "bookid", "isbn", "asin", "parent_asin", "sku", "stockcode",
    "business_id", "gmap_id", "recipe_id", "anime_id", "game_id", "app_id", "artist_id", "artistid", "artist",
    "venue_id", "ad_id",
)  # fmt: skip
TIME_NAMES = (
    "timestamp", "time", "ts", "datetime", "date", "event_time", "eventtime", "event_timestamp", "created_at",
    "timestamps", "time_ms", "timestamp_ms", "unixreviewtime", "unix_timestamp", "unix_time", "invoicedate",
    "invoice_date", "eventdate", "event_date", "t_dat", "order_date", "purchase_date", "transaction_date",
    "review_date", "reviewtime", "click_time", "clicked_at", "played_at", "rated_at", "interaction_time",
    "timeframe", "dt", "ds",
)  # fmt: skip
# Times of the day, or milliseconds since a session began: they say nothing without a date.
CLOCK_NAMES = ("time", "hourmin", "hour_min", "hhmm", "time_of_day", "timeframe")
TITLE_NAMES = ("title", "item_title", "movie_title", "product_title", "name", "item_name", "product_name",
               "prod_name", "description")  # fmt: skip

# What other programs write for "no value": pandas' list, databases' and JavaScript's. As an id each would be
# one user with everybody's history.
NULL_LIKE = frozenset(
    (
        "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A",
        "NA", "NULL", "NaN", "None", "n/a", "nan", "null", "none", "NONE", "Null", "na", "NAN", r"\N", "NaT",
        "nil", "undefined", "(null)", "#NULL!", "<null>", "[null]", "(none)", "N/a",
    )
)  # fmt: skip

# Seconds since 1970. Nobody's taps and purchases are older than 1980, or of the next century.
EARLIEST_SECOND, LATEST_SECOND = 315_532_800, 4_102_444_800
_ISO = re.compile(r"\d{4}[-/]\d{2}[-/]\d{2}([T ]\d{2}:\d{2}.*)?")


def plain(name: str) -> str:
    """A column's name as the lists above spell it."""
    return re.sub(r"[\s-]+", "_", name.strip().lower())


def headed(fields: Sequence[str]) -> bool:
    """Whether a line names columns: one like a user and one like an item."""
    known = {plain(field) for field in fields}
    return not known.isdisjoint(USER_NAMES) and not known.isdisjoint(ITEM_NAMES)


def number_like(text: str, least: float = -math.inf) -> bool:
    """Whether a field is a number of at least this size."""
    try:
        return float(text) >= least
    except ValueError:
        return False


def time_like(text: str) -> bool:
    """Whether a field is an ISO 8601 date, or a number that is a time of 1980 to 2100 in some unit."""
    text = text.strip().strip('"')
    if number_like(text):
        size = float(text)
        return any(EARLIEST_SECOND * unit <= size < LATEST_SECOND * unit for unit in (1, 1e3, 1e6, 1e9))
    return _ISO.fullmatch(text) is not None


def counted(number: int, noun: str) -> str:
    """ "1 row", "2,000 rows"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"

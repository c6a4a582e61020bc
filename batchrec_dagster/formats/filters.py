"""Filter expressions that batchrec itself asks for.

Source: Amazon Personalize developer guide, "Filter expressions".
"""

# "*" stands for every event type. Only the latest FILTER_HISTORY interactions of a user and event
# type count, see formats.interactions.
EXCLUDE_SEEN = 'EXCLUDE ItemID WHERE Interactions.EVENT_TYPE IN ("*")'
